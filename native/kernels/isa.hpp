// The inner loops, once for each instruction set, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codes.hpp"
#include "integers.hpp"
#include "sparse.hpp"

namespace tersor {

enum class Activation : int { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4 };

// At most this many vectors are worked on at once: the widest pass has `width * most_vectors` lanes.
constexpr int most_vectors = 8;

// Columns of an integer matrix whose products are summed as integers.
constexpr std::uint64_t digit_chunk = 256;

// One step's sums of a recurrent layer, and its state: rows of `lanes` floats. Gate q of row r begins
// at x + q * x_gate + r * x_row, and likewise in h. x, h, cell and state may be read up to a vector
// past the end of a row.
struct GateRows {
    std::size_t rows, lanes;
    const float* x;  // of the input, with biases
    std::size_t x_gate, x_row;
    const float* h;  // of the state
    std::size_t h_gate, h_row;
    float *cell, *state;
    std::size_t row;
    const float* bias;   // added to GRU's third sum of the state; null = 0
    bool bias_each_row;  // one for each row, else one for each lane
};

struct Kernels {
    const char* name;
    int width;  // floats of a vector

    // out[r] = sum over a block's row r of value * x[column]. `x` has tiles * tile floats.
    // Sums: 16 chains, entry i of a run in chain i % 16, carried through the tiles of the row; then
    // the chains are added pairwise (0 and 8, 1 and 9, ...; then 0 and 4, ...).
    void (*dot)(const SparseMatrix&, std::uint64_t block, const float* x, float* out);

    // sums[r][0 .. vectors * width) = sum over a block's row r of value * x[at(column) + lane], where
    // `at` is `offsets[column]`, or column * vectors * width without offsets. vectors: 1, 2, 4, 8.
    // Sums: one chain for 4 and 8 vectors, 2 for 2, 4 for 1; with offsets 2 if the width is 16, else 1
    // (entry i of a run in chain i mod that). They are added at the end of each tile.
    void (*multiply)(const SparseMatrix&, std::uint64_t block, const float* x,
                     const std::int32_t* offsets, int vectors, float* sums);

    // out = activation(v * scale + bias), elementwise. `out` may be `v` if n is a multiple of `width`.
    void (*finish)(const float* v, std::size_t n, float scale, float bias, Activation, float* out);
    // As memcpy, which costs more for a few floats.
    void (*copy)(const float* from, std::size_t n, float* to);
    // v[i] = activation(v[i] * scale[i] + bias[i]); null = 1 and 0.
    void (*finish_each)(float* v, std::size_t n, const float* scale, const float* bias, Activation);

    // out[c * out_stride + r] = in[r * in_stride + c].
    void (*transpose)(const float* in, std::size_t rows, std::size_t columns, std::size_t in_stride,
                      float* out, std::size_t out_stride);

    // out[s * out_stride + i] = sum over row first + i of book[code] * x[s * stride + column]; a sample
    // has `padded_columns` floats.
    void (*codes_dot)(const CodeMatrix&, std::uint64_t first, std::uint64_t count, const float* x, std::uint64_t stride,
                      std::uint64_t samples, float* out, std::uint64_t out_stride);

    // out[s * 16 + i] = sum over row i of a block of scale * (code - zero) * x[s * stride + column];
    // x has `padded_columns` floats a sample.
    void (*integers_floats)(const IntegerMatrix&, std::uint64_t block, const float* x, std::uint64_t stride, std::uint64_t samples, float* out);

    // The rest is null where there are no dot products of bytes.

    // How many digits base 256 make integers of a sample that lose no more than sums of floats do: 3 or
    // 4, or 0 = none, as half of the numbers are too small beside the largest, or one is not finite.
    // *most = the largest magnitude.
    int (*integers_planes)(const float* x, std::uint64_t columns, float* most);

    // The digits of x * factor * second, rounded, 4 bytes a padded column and 64 more that may be
    // written; and 4 sums of them for each `digit_chunk` columns of a group, in the order of the chunks.
    void (*integers_digits)(const IntegerMatrix&, const float* x, float factor, float second, std::int8_t* digits, std::int32_t* sums);

    // out[(s * blocks + b) * 16 + i] = sum over row i of block + b (1 or 2 blocks) of scale * (code - zero) *
    // number. Exact in a chunk; then rounded to a float, scaled, and added chunk by chunk.
    void (*integers_multiply)(const IntegerMatrix&, std::uint64_t block, std::uint64_t blocks, int planes, const std::int8_t* digits,
                              std::uint64_t stride, const std::int32_t* sums, std::uint64_t sums_stride, std::uint64_t samples, float* out);

    // The next cell and state, as recurrent.hpp says.
    void (*lstm_gates)(const GateRows&);
    void (*gru_gates)(const GateRows&);
};

// The loops of the widest instruction set that this processor has, or of the one that was forced.
const Kernels& kernels();

// Names of the instruction sets that this build and processor have, widest first.
const char* const* isa_names(std::size_t* count);

// Throws std::invalid_argument: a name that is not among them. An empty name takes force away.
void force_isa(const char* name);

}  // namespace tersor

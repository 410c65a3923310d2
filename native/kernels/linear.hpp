// Deployed layers: a packed matrix times samples, with what follows it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dense.hpp"
#include "isa.hpp"
#include "sparse.hpp"

namespace tersor {

// What is done to a sum: activation(sum * scale[row] + bias[row]); null = 1 and 0.
struct Finish {
    const float* scale = nullptr;
    const float* bias = nullptr;
    Activation activation = Activation::none;
};

// Up to so many samples are multiplied one by one: more are put side by side first.
constexpr std::size_t most_single = 2;

// Below so many multiplications another thread costs more than it saves.
constexpr std::size_t least_for_threads = 40000;

// One of several layers of which each takes what the one before gives.
struct LinearLayer {
    SparseMatrix sparse;
    DenseMatrix dense;
    bool coded = false;  // `dense` holds the weights, not `sparse`
    Finish finish;

    std::size_t rows() const { return coded ? dense.rows() : sparse.rows; }
    std::size_t columns() const { return coded ? dense.columns() : sparse.columns; }
};

// out (batch, rows of the last) = the layers, one after another, applied to x (batch, columns of the first).
void linear_chain(const LinearLayer* layers, std::size_t count, const float* x, std::size_t batch, float* out, int threads);

// out (batch, rows) = finish(x (batch, columns) times the matrix's rows).
void sparse_linear(const SparseMatrix& matrix, const float* x, std::size_t batch, float* out,
                   const Finish& finish, int threads);
void codes_linear(const CodeMatrix& matrix, const float* x, std::size_t batch, float* out,
                  const Finish& finish, int threads);

// Samples are `stride` floats apart. Where bytes have dot products and a sample's numbers are not too
// unlike, they become integers of 24 or 32 bits (see isa.hpp); else floats are multiplied.
void integers_linear(const IntegerMatrix& matrix, const float* x, std::size_t stride, std::size_t batch, float* out,
                     const Finish& finish, int threads);

void dense_linear(const DenseMatrix& matrix, const float* x, std::size_t batch, float* out,
                  const Finish& finish, int threads);

// out (count, columns) = rows of a matrix whose blocks have one row each. The ids are below `rows`.
void sparse_rows(const SparseMatrix& matrix, const std::int64_t* ids, std::size_t count, float* out, int threads);

struct Convolution {
    std::size_t images, channels, height, width;
    std::size_t kernel[2], stride[2], padding[2], dilation[2];

    std::size_t out_side(int axis) const {
        const std::size_t side = (axis == 0 ? height : width) + 2 * padding[axis];
        return (side - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1;
    }
};

// out (images, rows, *out sides) = finish(the matrix's rows times patches of x (images, channels,
// height, width)); a column of the matrix is (channel, row, column of the kernel). Patches are
// never built: each entry is multiplied with a run of neighbouring pixels.
// The kernel must fit into the padded image. Throws std::invalid_argument: an image of 2^31 values.
void sparse_convolution(const SparseMatrix& matrix, const Convolution& shape, const float* x, float* out,
                        const Finish& finish, int threads);

struct Pooling {
    std::size_t planes, height, width;
    std::size_t kernel[2], stride[2], padding[2];

    std::size_t out_side(int axis) const {
        return ((axis == 0 ? height : width) + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1;
    }
};

// out (planes, *out sides) = the largest value of each window of x (planes, height, width).
// The kernel must fit into the padded plane.
void max_pool(const Pooling& shape, const float* x, float* out, int threads);

}  // namespace tersor

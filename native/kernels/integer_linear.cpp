#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "row_finish.hpp"
#include "threads.hpp"

namespace tersor {
namespace {

// x with each sample's groups padded by zeros.
const float* padded_groups(const IntegerMatrix& m, const float* x, std::size_t stride, std::size_t batch) {
    const std::size_t wide = m.padded_columns();
    float* copy = scratch(1, batch * wide);
    std::fill(copy, copy + batch * wide, 0.0f);
    for (std::size_t b = 0; b < batch; ++b)
        for (std::size_t g = 0; g < m.groups(); ++g)
            std::memcpy(copy + b * wide + m.group_begin(g), x + b * stride + g * m.group, m.group_columns(g) * sizeof(float));
    return copy;
}

void floats(const IntegerMatrix& m, const float* x, std::size_t stride, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    if (m.padded_columns() != m.columns) {
        x = padded_groups(m, x, stride, batch);
        stride = m.padded_columns();
    }
    parallel(m.blocks(), threads, [&](std::size_t block) {
        const std::size_t first = block * integer_rows, rows = std::min<std::size_t>(integer_rows, m.rows - first);
        float* sums = scratch(2, batch * integer_rows);
        k.integers_floats(m, block, x, stride, batch, sums);
        for (std::size_t b = 0; b < batch; ++b) {
            float* to = out + b * m.rows + first;
            std::memcpy(to, sums + b * integer_rows, rows * sizeof(float));
            finish_row(k, to, first, rows, f);
        }
    });
}

// The power of two that makes `most` an integer of 23 or 31 bits whose digits do not overflow: 127 *
// (1 + 256 + ...) is 0.996 of such a power.
int exponent_for(float most, int planes) {
    if (most == 0) return 0;
    int exponent;
    const float share = std::frexp(most, &exponent);
    return 8 * planes - 1 - exponent - (share > 0.995f ? 1 : 0);
}

std::size_t chunks_of(const IntegerMatrix& m) {
    const auto of = [&](std::size_t g) { return (m.group_pieces(g) * m.piece_columns() + digit_chunk - 1) / digit_chunk; };
    return (m.groups() - 1) * of(0) + of(m.groups() - 1);
}

}  // namespace

void integers_linear(const IntegerMatrix& m, const float* x, std::size_t stride, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    if (m.rows * m.columns * batch < least_for_threads) threads = 1;
    const std::size_t digits_stride = m.padded_columns() * 4 + 64, sums_stride = chunks_of(m) * 4;
    // Samples whose digits take 4 MiB at most, or one.
    const std::size_t slices = (batch * digits_stride + (std::size_t{1} << 22) - 1) >> 22;
    const std::size_t at_once = std::max<std::size_t>(1, (batch + slices - 1) / slices);
    if (batch > at_once) {
        for (std::size_t b = 0; b < batch; b += at_once)
            integers_linear(m, x + b * stride, stride, std::min(at_once, batch - b), out + b * m.rows, f, threads);
        return;
    }
    if (k.integers_multiply == nullptr) return floats(m, x, stride, batch, out, f, threads);
    auto* digits = reinterpret_cast<std::int8_t*>(scratch(1, batch * (digits_stride / 4 + sums_stride + 2)));
    auto* sums = reinterpret_cast<std::int32_t*>(digits + batch * digits_stride);
    auto* most = reinterpret_cast<float*>(sums + batch * sums_stride);
    int planes = 3;
    for (std::size_t b = 0; b < batch; ++b) {
        const int needed = k.integers_planes(x + b * stride, m.columns, most + b);
        if (needed == 0) return floats(m, x, stride, batch, out, f, threads);
        planes = std::max(planes, needed);
    }
    // A power of two beyond 2^127 is two factors; each is its own inverse's inverse exactly.
    const auto factors = [&](std::size_t b, int sign) {
        const int exponent = exponent_for(most[b], planes), half = exponent / 2;
        return std::pair<float, float>{std::ldexp(1.0f, sign * half), std::ldexp(1.0f, sign * (exponent - half))};
    };
    parallel(batch, batch * m.columns < least_for_threads ? 1 : threads, [&](std::size_t b) {
        const auto [one, two] = factors(b, 1);
        k.integers_digits(m, x + b * stride, one, two, digits + b * digits_stride, sums + b * sums_stride);
    });
    constexpr std::size_t pair = 2;  // blocks
    parallel((m.blocks() + pair - 1) / pair, threads, [&](std::size_t item) {
        const std::size_t block = item * pair, blocks = std::min(pair, m.blocks() - block), first = block * integer_rows;
        const std::size_t lanes = blocks * integer_rows, rows = std::min(lanes, m.rows - first);
        float* of_block = scratch(2, batch * lanes);
        k.integers_multiply(m, block, blocks, planes, digits, digits_stride, sums, sums_stride, batch, of_block);
        for (std::size_t b = 0; b < batch; ++b) {
            const auto [one, two] = factors(b, -1);
            float* to = out + b * m.rows + first;
            for (std::size_t r = 0; r < rows; ++r) to[r] = of_block[b * lanes + r] * one * two;
            finish_row(k, to, first, rows, f);
        }
    });
}

}  // namespace tersor

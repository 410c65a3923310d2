#include "linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "threads.hpp"

namespace tersor {
namespace {

int threads_for(std::size_t multiplications, int threads) {
    return multiplications < least_for_threads ? 1 : threads;
}

void finish_row(const Kernels& k, float* out, std::size_t first, std::size_t rows, const Finish& f) {
    k.finish_each(out, rows, f.scale == nullptr ? nullptr : f.scale + first,
                  f.bias == nullptr ? nullptr : f.bias + first, f.activation);
}

// x with each sample padded by zeros to `padded` columns.
const float* padded(const float* x, std::size_t batch, std::size_t columns, std::size_t padded) {
    if (padded == columns) return x;
    float* copy = scratch(1, batch * padded);
    for (std::size_t b = 0; b < batch; ++b) {
        std::memcpy(copy + b * padded, x + b * columns, columns * sizeof(float));
        std::fill(copy + b * padded + columns, copy + (b + 1) * padded, 0.0f);
    }
    return copy;
}

// Whether fixed-point numbers hold every sample: all are finite, and of those that are not zero at most
// half are so much smaller than the largest that they would have fewer bits than a float.
bool even(const float* x, std::size_t batch, std::size_t columns) {
    constexpr float small = 1.0f / 1024;  // 2^20 units or fewer
    for (std::size_t b = 0; b < batch; ++b, x += columns) {
        float most = 0, nothing = 0;
        for (std::size_t c = 0; c < columns; ++c) {
            most = std::max(most, std::fabs(x[c]));
            nothing += 0.0f * x[c];  // 0, but NaN for infinities and NaN
        }
        if (nothing != 0) return false;
        std::size_t zeros = 0, low = 0;
        for (std::size_t c = 0; c < columns; ++c) {
            zeros += x[c] == 0;
            low += std::fabs(x[c]) < small * most;
        }
        if (2 * (low - zeros) > columns - zeros) return false;
    }
    return true;
}

// A sample as 32-bit fixed-point numbers, 2^31 added, in planes of their bytes in the order of a row's
// codes. Returns the value of one unit: the largest of the sample / 2^30.
double fixed_point(const CodeMatrix& m, const float* x, std::uint8_t* planes) {
    const std::size_t bytes = m.groups() * 64;
    float most = 0;
    for (std::size_t c = 0; c < m.columns; ++c) most = std::max(most, std::fabs(x[c]));
    const double units = most > 0 ? std::ldexp(1.0, 30) / static_cast<double>(most) : 0;
    for (std::size_t group = 0; group < m.groups(); ++group)
        for (std::size_t in = 0; in < 64; ++in) {
            const std::size_t column = group * 64 + in % 4 * 16 + in / 4;
            const double value = column < m.columns ? static_cast<double>(x[column]) * units : 0;
            // Adding 1.5 * 2^52 leaves the rounded number in the low bits.
            const double shifted = value + 6755399441055744.0;
            std::uint64_t bits;
            std::memcpy(&bits, &shifted, sizeof bits);
            bits += std::uint64_t{1} << 31;
            for (std::size_t plane = 0; plane < 4; ++plane)
                planes[plane * bytes + group * 64 + in] = static_cast<std::uint8_t>(bits >> (8 * plane));
        }
    return units > 0 ? 1 / units : 0;
}

void integers_linear(const CodeMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    const std::size_t sample = m.groups() * 256;  // bytes
    auto* planes = reinterpret_cast<std::uint8_t*>(scratch(1, batch * (sample / sizeof(float) + 2)));
    auto* units = reinterpret_cast<double*>(planes + batch * sample);
    for (std::size_t b = 0; b < batch; ++b) units[b] = fixed_point(m, x + b * m.columns, planes + b * sample);
    constexpr std::size_t chunk = 32;
    parallel((m.rows + chunk - 1) / chunk, threads_for(m.rows * m.columns * batch, threads), [&](std::size_t item) {
        const std::size_t first = item * chunk, rows = std::min<std::size_t>(chunk, m.rows - first);
        for (std::size_t b = 0; b < batch; ++b) {
            float* to = out + b * m.rows + first;
            k.integers_dot(m, first, rows, planes + b * sample, units[b], to);
            finish_row(k, to, first, rows, f);
        }
    });
}

void one_by_one(const SparseMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    parallel(m.blocks(), threads_for(m.entries * batch, threads), [&](std::size_t block) {
        const std::size_t first = block * m.row_block;
        for (std::size_t b = 0; b < batch; ++b) {
            float* to = out + b * m.rows + first;
            k.dot(m, block, x + b * m.columns, to);
            finish_row(k, to, first, m.block_rows(block), f);
        }
    });
}

// Samples that go side by side in one pass, and the vectors that hold them.
struct Pass {
    std::size_t first, samples;
    int vectors;
};

Pass pass_from(std::size_t first, std::size_t batch, int width) {
    const int most = width >= 16 ? most_vectors / 2 : most_vectors;
    const std::size_t left = batch - first;
    int vectors = 1;
    while (vectors < most && static_cast<std::size_t>(vectors * width) < left) vectors *= 2;
    return {first, std::min(left, static_cast<std::size_t>(vectors * width)), vectors};
}

std::size_t widest_pass(int width) { return static_cast<std::size_t>(pass_from(0, SIZE_MAX, width).vectors * width); }

void side_by_side(const SparseMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    threads = threads_for(m.entries * batch, threads);
    // Every pass but the last is the widest; so the lanes before a pass are its first sample.
    const std::size_t widest = widest_pass(k.width);
    const std::size_t passes = (batch + widest - 1) / widest;
    const Pass last = pass_from((passes - 1) * widest, batch, k.width);
    const std::size_t lanes = last.first + static_cast<std::size_t>(last.vectors * k.width);
    float* turned = scratch(1, lanes * m.columns);
    constexpr std::size_t chunk = 512;
    const std::size_t chunks = (m.columns + chunk - 1) / chunk;
    parallel(passes * chunks, threads, [&](std::size_t item) {
        const Pass p = pass_from(item / chunks * widest, batch, k.width);
        const std::size_t from = item % chunks * chunk, columns = std::min(chunk, m.columns - from);
        const std::size_t wide = static_cast<std::size_t>(p.vectors * k.width);
        float* to = turned + p.first * m.columns + from * wide;
        k.transpose(x + p.first * m.columns + from, p.samples, columns, m.columns, to, wide);
        if (p.samples < wide)
            for (std::size_t c = 0; c < columns; ++c) std::fill(to + c * wide + p.samples, to + (c + 1) * wide, 0.0f);
    });
    parallel(passes * m.blocks(), threads, [&](std::size_t item) {
        const Pass p = pass_from(item / m.blocks() * widest, batch, k.width);
        const std::size_t block = item % m.blocks(), first = block * m.row_block, rows = m.block_rows(block);
        const std::size_t wide = static_cast<std::size_t>(p.vectors * k.width);
        float* sums = scratch(2, m.row_block * wide);
        k.multiply(m, block, turned + p.first * m.columns, nullptr, p.vectors, sums);
        for (std::size_t r = 0; r < rows; ++r)
            k.finish(sums + r * wide, wide, f.scale == nullptr ? 1.0f : f.scale[first + r],
                     f.bias == nullptr ? 0.0f : f.bias[first + r], f.activation, sums + r * wide);
        k.transpose(sums, rows, p.samples, wide, out + p.first * m.rows + first, m.rows);
    });
}

}  // namespace

void sparse_linear(const SparseMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    // Places in samples side by side are 32-bit.
    if (batch <= most_single || m.columns > INT32_MAX / 128) return one_by_one(m, x, batch, out, f, threads);
    // Whole passes, of which the turned samples take 16 MiB at most, or one.
    constexpr std::size_t most = std::size_t{1} << 22;
    const std::size_t widest = widest_pass(kernels().width);
    const std::size_t at_once = std::max<std::size_t>(1, most / (widest * m.columns)) * widest;
    for (std::size_t first = 0; first < batch; first += at_once)
        side_by_side(m, x + first * m.columns, std::min(at_once, batch - first), out + first * m.rows, f, threads);
}

void codes_linear(const CodeMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    if (m.affine == 1 && k.integers_dot != nullptr && m.groups() <= (1 << 14) && even(x, batch, m.columns))
        return integers_linear(m, x, batch, out, f, threads);
    const std::size_t wide = m.padded_columns();
    const float* from = padded(x, batch, m.columns, wide);
    constexpr std::size_t chunk = 32;
    parallel((m.rows + chunk - 1) / chunk, threads_for(m.rows * m.columns * batch, threads), [&](std::size_t item) {
        const std::size_t first = item * chunk, rows = std::min<std::size_t>(chunk, m.rows - first);
        for (std::size_t b = 0; b < batch; ++b) {
            float* to = out + b * m.rows + first;
            k.codes_dot(m, first, rows, from + b * wide, to);
            finish_row(k, to, first, rows, f);
        }
    });
}

void linear_chain(const LinearLayer* layers, std::size_t count, const float* x, std::size_t batch, float* out, int threads) {
    const float* from = x;
    for (std::size_t i = 0; i < count; ++i) {
        const LinearLayer& layer = layers[i];
        float* to = i + 1 == count ? out : scratch(3 + static_cast<int>(i % 2), batch * layer.rows());
        if (layer.coded)
            codes_linear(layer.codes, from, batch, to, layer.finish, threads);
        else
            sparse_linear(layer.sparse, from, batch, to, layer.finish, threads);
        from = to;
    }
}

void sparse_rows(const SparseMatrix& m, const std::int64_t* ids, std::size_t count, float* out, int threads) {
    parallel(count, threads_for(count * m.columns, threads), [&](std::size_t i) {
        sparse_row(m, static_cast<std::uint64_t>(ids[i]), out + i * m.columns);
    });
}

}  // namespace tersor

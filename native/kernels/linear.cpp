#include "linear.hpp"

#include <algorithm>
#include <cstring>

#include "row_finish.hpp"
#include "threads.hpp"

namespace tersor {
namespace {

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
    const std::size_t wide = m.padded_columns();
    const float* from = padded(x, batch, m.columns, wide);
    constexpr std::size_t chunk = 32;
    parallel((m.rows + chunk - 1) / chunk, threads_for(m.rows * m.columns * batch, threads), [&](std::size_t item) {
        const std::size_t first = item * chunk, rows = std::min<std::size_t>(chunk, m.rows - first);
        k.codes_dot(m, first, rows, from, wide, batch, out + first, m.rows);
        for (std::size_t b = 0; b < batch; ++b) finish_row(k, out + b * m.rows + first, first, rows, f);
    });
}

void dense_linear(const DenseMatrix& m, const float* x, std::size_t batch, float* out, const Finish& f, int threads) {
    if (m.whole) return integers_linear(m.integers, x, m.integers.columns, batch, out, f, threads);
    codes_linear(m.codes, x, batch, out, f, threads);
}

void linear_chain(const LinearLayer* layers, std::size_t count, const float* x, std::size_t batch, float* out, int threads) {
    const float* from = x;
    for (std::size_t i = 0; i < count; ++i) {
        const LinearLayer& layer = layers[i];
        float* to = i + 1 == count ? out : scratch(3 + static_cast<int>(i % 2), batch * layer.rows());
        if (layer.coded)
            dense_linear(layer.dense, from, batch, to, layer.finish, threads);
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

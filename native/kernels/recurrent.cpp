#include "recurrent.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "isa.hpp"
#include "linear.hpp"
#include "threads.hpp"

namespace tersor {
namespace {

// Samples whose inputs are projected at once: steps are taken in windows of up to so many, so that
// what is projected stays in the cache until its step comes. Of 16, 32 and 64 lanes, 32 took the
// least time a lane (Zen 4, 650 columns, 10 % kept: 0.050, 0.031, 0.037 ns an entry and lane).
constexpr std::size_t window_samples = 32;

// Up to so many samples are multiplied one by one. Fewer than in linear.hpp: nothing is turned here.
constexpr std::size_t most_by_sample = 2;

// Floats that vectors may read behind the last one that counts.
constexpr std::size_t slack = 16;

// Units whose gates are one item of work.
constexpr std::size_t unit_chunk = 64;

constexpr int projected_slot = 3, sums_slot = 4, state_slot = 5, input_slot = 6, bias_slot = 7;

int threads_for(std::size_t multiplications, int threads) { return multiplications < least_for_threads ? 1 : threads; }

// A gate takes about as long as so many multiplications of a sparse row.
constexpr std::size_t gate_cost = 8;

struct Run {
    const Recurrence& layer;
    const Kernels& k;
    const float* x;
    std::size_t steps, batch;
    float *h, *c, *out;
    std::size_t stride;
    int threads;

    std::size_t hidden = layer.hidden(), rows = layer.gates() * hidden, inputs = layer.input.columns();
    bool lstm = layer.cell == Cell::lstm;
    const float* bias = nullptr;  // of the projection: all that is added outside of the gates
    const float* last_bias = nullptr;  // of the hidden part of GRU's n

    // The s-th step that is taken.
    std::size_t step(std::size_t s) const { return layer.reverse ? steps - 1 - s : s; }
    std::size_t multiplications(const PackedMatrix& m, std::size_t samples) const {
        return (m.coded ? m.rows() * m.columns() : m.sparse.entries) * samples;
    }

    void add_biases() {
        const float *one = layer.input_bias, *two = layer.hidden_bias;
        if (two != nullptr && !lstm) last_bias = two + 2 * hidden;
        const std::size_t shared = lstm ? rows : 2 * hidden;
        float* sum = scratch(bias_slot, rows + hidden + slack);
        for (std::size_t r = 0; r < rows; ++r)
            sum[r] = (one == nullptr ? 0.0f : one[r]) + (two == nullptr || r >= shared ? 0.0f : two[r]);
        bias = sum;
        if (last_bias == nullptr) return;
        std::memcpy(sum + rows, last_bias, hidden * sizeof(float));  // may be read with slack here
        last_bias = sum + rows;
    }

    void gates(const GateRows& g) const { lstm ? k.lstm_gates(g) : k.gru_gates(g); }

    // ---- a row of gates for each sample: few samples, or matrices of codes

    void by_sample() {
        const bool codes = layer.recurrent.coded && !layer.recurrent.dense.whole;
        const std::size_t wide = codes ? layer.recurrent.dense.codes.padded_columns() : (hidden + slack - 1) / slack * slack;
        const std::size_t window = std::max<std::size_t>(1, std::min(steps, window_samples / batch));
        float* projected = scratch(projected_slot, window * batch * rows + slack);
        float* sums = scratch(sums_slot, batch * rows + slack);
        float* state = scratch(state_slot, 2 * (batch * wide + slack));
        float* cell = state + batch * wide + slack;
        std::fill(state, state + 2 * (batch * wide + slack), 0.0f);
        for (std::size_t b = 0; b < batch; ++b) {
            std::memcpy(state + b * wide, h + b * hidden, hidden * sizeof(float));
            if (lstm) std::memcpy(cell + b * wide, c + b * hidden, hidden * sizeof(float));
        }
        for (std::size_t first = 0; first < steps; first += window) {
            const std::size_t count = std::min(window, steps - first);
            const std::size_t lowest = std::min(step(first), step(first + count - 1));
            project(x + lowest * batch * inputs, count * batch, projected);
            for (std::size_t s = first; s < first + count; ++s) {
                multiply_samples(state, wide, sums);
                const std::size_t t = step(s);
                const float* of_step = projected + (t - lowest) * batch * rows;
                float* to = out + t * batch * stride;
                parallel(batch, threads_for(batch * rows * gate_cost, threads), [&](std::size_t b) {
                    gates({1, hidden, of_step + b * rows, hidden, 0, sums + b * rows, hidden, 0, cell + b * wide, state + b * wide, 0, last_bias, false});
                    std::memcpy(to + b * stride, state + b * wide, hidden * sizeof(float));
                });
            }
        }
        for (std::size_t b = 0; b < batch; ++b) {
            std::memcpy(h + b * hidden, state + b * wide, hidden * sizeof(float));
            if (lstm) std::memcpy(c + b * hidden, cell + b * wide, hidden * sizeof(float));
        }
    }

    // to (samples, rows) = W from + bias.
    void project(const float* from, std::size_t samples, float* to) const {
        const Finish finish{nullptr, bias, Activation::none};
        if (layer.input.coded)
            dense_linear(layer.input.dense, from, samples, to, finish, threads);
        else
            sparse_linear(layer.input.sparse, from, samples, to, finish, threads);
    }

    // sums (batch, rows) = U state, whose samples are `wide` floats apart.
    void multiply_samples(const float* state, std::size_t wide, float* sums) const {
        const PackedMatrix& m = layer.recurrent;
        if (m.coded && m.dense.whole) return integers_linear(m.dense.integers, state, wide, batch, sums, {}, threads);
        constexpr std::size_t chunk = 32;
        const std::size_t items = m.coded ? (rows + chunk - 1) / chunk : m.sparse.blocks();
        parallel(items, threads_for(multiplications(m, batch), threads), [&](std::size_t item) {
            const std::size_t first = item * (m.coded ? chunk : m.sparse.row_block);
            if (m.coded) return k.codes_dot(m.dense.codes, first, std::min(chunk, rows - first), state, wide, batch, sums + first, rows);
            for (std::size_t b = 0; b < batch; ++b) k.dot(m.sparse, item, state + b * wide, sums + b * rows + first);
        });
    }

    // ---- a row of samples for each gate: neither state nor sums are turned between the steps

    // Samples first to first + count of the batch; at most `window_samples`.
    void side_by_side(std::size_t first, std::size_t count) {
        const std::size_t window = std::max<std::size_t>(1, std::min(steps, window_samples / count));
        const int vectors = vectors_for(count), projected_vectors = vectors_for(window * count);
        const std::size_t wide = lanes_of(vectors), projected_wide = lanes_of(projected_vectors);
        float* projected = scratch(projected_slot, rows * projected_wide + slack + wide);
        float* sums = scratch(sums_slot, rows * wide);
        float* state = scratch(state_slot, 2 * hidden * wide);
        float* cell = state + hidden * wide;
        std::fill(state, state + 2 * hidden * wide, 0.0f);
        k.transpose(h + first * hidden, count, hidden, hidden, state, wide);
        if (lstm) k.transpose(c + first * hidden, count, hidden, hidden, cell, wide);
        std::fill(projected + rows * projected_wide, projected + rows * projected_wide + slack + wide, 0.0f);
        const SparseMatrix& m = layer.recurrent.sparse;
        for (std::size_t s = 0; s < steps; ++s) {
            const std::size_t of_window = s % window;
            if (of_window == 0) project_lanes(s, std::min(window, steps - s), first, count, projected, projected_vectors);
            parallel(m.blocks(), threads_for(m.entries * count, threads), [&](std::size_t block) {
                k.multiply(m, block, state, nullptr, vectors, sums + block * m.row_block * wide);
            });
            const float* of_step = projected + of_window * count;
            float* to = out + (step(s) * batch + first) * stride;
            const std::size_t chunks = (hidden + unit_chunk - 1) / unit_chunk;
            parallel(chunks, threads_for(rows * count * gate_cost, threads), [&](std::size_t chunk) {
                const std::size_t unit = chunk * unit_chunk, units = std::min(unit_chunk, hidden - unit);
                gates({units, wide, of_step + unit * projected_wide, hidden * projected_wide, projected_wide,
                       sums + unit * wide, hidden * wide, wide, cell + unit * wide, state + unit * wide, wide,
                       last_bias == nullptr ? nullptr : last_bias + unit, true});
                k.transpose(state + unit * wide, units, count, wide, to + unit, stride);
            });
        }
        k.transpose(state, hidden, count, wide, h + first * hidden, hidden);
        if (lstm) k.transpose(cell, hidden, count, wide, c + first * hidden, hidden);
    }

    int vectors_for(std::size_t samples) const {
        int vectors = 1;
        while (static_cast<std::size_t>(vectors * k.width) < samples) vectors *= 2;
        return vectors;
    }
    std::size_t lanes_of(int vectors) const { return static_cast<std::size_t>(vectors * k.width); }

    // to[row][of_window * count + sample] = W x + bias for `window` steps from the s-th on.
    void project_lanes(std::size_t s, std::size_t window, std::size_t first, std::size_t count, float* to, int vectors) const {
        const std::size_t wide = lanes_of(vectors);
        const auto samples = [&](std::size_t i) { return x + (step(s + i) * batch + first) * inputs; };
        if (layer.input.coded) {
            float* turned = scratch(input_slot, count * rows);
            for (std::size_t i = 0; i < window; ++i) {
                project(samples(i), count, turned);
                k.transpose(turned, count, rows, rows, to + i * count, wide);
            }
            return;
        }
        const SparseMatrix& m = layer.input.sparse;
        const int share = threads_for(m.entries * count * window, threads);
        float* turned = scratch(input_slot, inputs * wide);
        constexpr std::size_t chunk = 512;
        parallel((inputs + chunk - 1) / chunk, share, [&](std::size_t item) {
            const std::size_t from = item * chunk, columns = std::min(chunk, inputs - from);
            float* lanes = turned + from * wide;
            for (std::size_t i = 0; i < window; ++i) k.transpose(samples(i) + from, count, columns, inputs, lanes + i * count, wide);
            for (std::size_t column = 0; column < columns; ++column)
                std::fill(lanes + column * wide + window * count, lanes + (column + 1) * wide, 0.0f);
        });
        parallel(m.blocks(), share, [&](std::size_t block) {
            const std::size_t row = block * m.row_block;
            k.multiply(m, block, turned, nullptr, vectors, to + row * wide);
            for (std::size_t r = row; r < row + m.block_rows(block); ++r) k.finish(to + r * wide, wide, 1.0f, bias[r], Activation::none, to + r * wide);
        });
    }
};

void require(bool fits, const Recurrence& layer) {
    if (fits) return;
    throw std::invalid_argument("recurrent layer: an input matrix of " + std::to_string(layer.input.rows()) + " rows and a recurrent one of " +
                                std::to_string(layer.recurrent.rows()) + " x " + std::to_string(layer.recurrent.columns()) + ", expected " +
                                std::to_string(layer.gates()) + " rows for each recurrent column");
}

}  // namespace

void recurrent(const Recurrence& layer, const float* x, std::size_t steps, std::size_t batch, float* h, float* c,
               float* out, std::size_t stride, int threads) {
    require(layer.recurrent.rows() == layer.gates() * layer.hidden() && layer.input.rows() == layer.recurrent.rows(), layer);
    if (steps == 0 || batch == 0) return;
    Run run{layer, kernels(), x, steps, batch, h, c, out, stride, threads};
    run.add_biases();
    if (layer.recurrent.coded || batch <= most_by_sample) return run.by_sample();
    const std::size_t slices = (batch + window_samples - 1) / window_samples, count = (batch + slices - 1) / slices;
    for (std::size_t first = 0; first < batch; first += count) run.side_by_side(first, std::min(count, batch - first));
}

}  // namespace tersor

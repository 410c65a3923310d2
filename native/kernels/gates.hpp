// The gates of one step of a recurrent layer. Included by loops.hpp, once for each instruction set.

// Stores the first `n` lanes.
static inline void store_some(float* p, Lanes v, std::size_t n) {
    if (n >= width) return store(p, v);
    float rest[width];
    store(rest, v);
    for (std::size_t k = 0; k < n; ++k) p[k] = rest[k];
}

static void lstm_gates(const GateRows& g) {
    for (std::size_t r = 0; r < g.rows; ++r) {
        const float *x = g.x + r * g.x_row, *h = g.h + r * g.h_row;
        float *c = g.cell + r * g.row, *state = g.state + r * g.row;
        for (std::size_t i = 0; i < g.lanes; i += width) {
            const auto sum = [&](std::size_t gate) { return load(x + gate * g.x_gate + i) + load(h + gate * g.h_gate + i); };
            const Lanes in = logistic(sum(0)), forget = logistic(sum(1)), value = hyperbolic_tangent(sum(2)), out = logistic(sum(3));
            const Lanes cell = forget * load(c + i) + in * value;
            store_some(c + i, cell, g.lanes - i);
            store_some(state + i, out * hyperbolic_tangent(cell), g.lanes - i);
        }
    }
}

static void gru_gates(const GateRows& g) {
    for (std::size_t r = 0; r < g.rows; ++r) {
        const float *x = g.x + r * g.x_row, *h = g.h + r * g.h_row;
        float* state = g.state + r * g.row;
        for (std::size_t i = 0; i < g.lanes; i += width) {
            const auto sum = [&](std::size_t gate) { return load(x + gate * g.x_gate + i) + load(h + gate * g.h_gate + i); };
            const Lanes reset = logistic(sum(0)), update = logistic(sum(1));
            const Lanes bias = g.bias == nullptr ? Lanes{} : g.bias_each_row ? all(g.bias[r]) : load(g.bias + i);
            const Lanes fresh = hyperbolic_tangent(load(x + 2 * g.x_gate + i) + reset * (load(h + 2 * g.h_gate + i) + bias));
            store_some(state + i, fresh + update * (load(state + i) - fresh), g.lanes - i);
        }
    }
}

// Deployed recurrent layers: torch's LSTM and GRU with packed weights, one layer and direction.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dense.hpp"
#include "sparse.hpp"

namespace tersor {

enum class Cell : int { lstm = 0, gru = 1 };

// A packed matrix of either kind: the other one is empty.
struct PackedMatrix {
    SparseMatrix sparse;
    DenseMatrix dense;
    bool coded = false;  // it is `dense`

    std::uint64_t rows() const { return coded ? dense.rows() : sparse.rows; }
    std::uint64_t columns() const { return coded ? dense.columns() : sparse.columns; }
};

// i, f, g, o = the four parts of W x + b + U h + b', of `hidden` rows each:
//   c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)                             (lstm)
// r, z = the first two parts; n = tanh(part 3 of W x + b + sigmoid(r) * (part 3 of U h + b')):
//   h = n + sigmoid(z) (h - n)                                                                 (gru)
struct Recurrence {
    Cell cell;
    PackedMatrix input;         // W: (gates * hidden, inputs)
    PackedMatrix recurrent;     // U: (gates * hidden, hidden)
    const float* input_bias;    // b: gates * hidden; null = 0
    const float* hidden_bias;   // b'
    bool reverse;               // from the last step to the first

    std::size_t gates() const { return cell == Cell::lstm ? 4 : 3; }
    std::size_t hidden() const { return recurrent.columns(); }
};

// Runs x (steps, batch, inputs) through the layer, `inputs` being the input matrix's columns. h and c (batch, hidden) are the state before and
// then after; c is for lstm alone. Step t of sample b is written at out + (t * batch + b) * stride.
// Throws std::invalid_argument: the matrices' sides do not fit each other.
void recurrent(const Recurrence& layer, const float* x, std::size_t steps, std::size_t batch, float* h, float* c,
               float* out, std::size_t stride, int threads);

}  // namespace tersor

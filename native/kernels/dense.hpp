// A dense matrix of either kind: codes of a codebook, or integers with scales.
#pragma once

#include "codes.hpp"
#include "integers.hpp"

namespace tersor {

struct DenseMatrix {
    CodeMatrix codes;
    IntegerMatrix integers;
    bool whole = false;  // `integers` hold the weights, not `codes`

    std::uint64_t rows() const { return whole ? integers.rows : codes.rows; }
    std::uint64_t columns() const { return whole ? integers.columns : codes.columns; }
};

inline DenseMatrix dense_view(Span<const std::uint8_t> bytes) {
    DenseMatrix m;
    m.whole = holds_integers(bytes);
    if (m.whole)
        m.integers = integers_view(bytes);
    else
        m.codes = codes_view(bytes);
    return m;
}

}  // namespace tersor

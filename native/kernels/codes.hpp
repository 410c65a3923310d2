// A dense matrix of codes of 1, 2, 4 or 8 bits in the memory of a deployed layer.
//
// A row is cut into groups of 64 bytes, and a group is 16 32-bit words: lane l of the vector holds
// the codes of columns l, 16 + l, 32 + l, ... of the group, low bits first. So one shift gives the
// codes of 16 neighbouring columns. Rows are padded by code 0; x is padded by zeros.
// With 8 bits a code may also be a signed integer (`affine`): the value is code * scale[row].
#pragma once

#include <cstddef>
#include <cstdint>

#include "../span.hpp"

namespace tersor {

struct CodeMatrix {
    std::uint64_t rows = 0, columns = 0;
    std::uint64_t bits = 0;    // 1, 2, 4 or 8
    std::uint64_t affine = 0;  // 1: integers and a scale of each row instead of a codebook

    const std::uint8_t* codes = nullptr;  // (rows, groups, 64)
    const float* book = nullptr;          // 256 centroids (repeated to fill 16, for bits below 4)
    const float* scales = nullptr;        // rows

    std::uint64_t group_columns() const { return 512 / bits; }
    std::uint64_t groups() const { return (columns + group_columns() - 1) / group_columns(); }
    std::uint64_t padded_columns() const { return groups() * group_columns(); }
};

// Bytes of a matrix. Throws std::invalid_argument: the shape cannot be represented.
std::size_t codes_bytes(const CodeMatrix& shape);

// Fills `out`. `codes` are rows * columns; for affine ones two's complement in the low 8 bits.
// `table` is the codebook, or the scales of the rows. Throws std::invalid_argument.
void codes_pack(const CodeMatrix& shape, Span<const std::uint16_t> codes, Span<const float> table,
                Span<std::uint8_t> out);

// The matrix that lies in `bytes`. Throws std::invalid_argument: they hold none.
CodeMatrix codes_view(Span<const std::uint8_t> bytes);

void codes_to_dense(const CodeMatrix& matrix, float* out);

}  // namespace tersor

// A dense matrix of codes of 1, 2, 4 or 8 bits in the memory of a deployed layer.
//
// A row is cut into groups of 64 bytes, and a group is 16 32-bit words: lane l of the vector holds
// the codes of columns l, 16 + l, 32 + l, ... of the group, low bits first. So one shift gives the
// codes of 16 neighbouring columns. Rows are padded by code 0; x is padded by zeros.
// The codebook is one for all rows, or each row has its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../span.hpp"

namespace tersor {

struct CodeMatrix {
    std::uint64_t rows = 0, columns = 0;
    std::uint64_t bits = 0;       // 1, 2, 4 or 8
    std::uint64_t row_books = 0;  // 1: each row has a codebook of its own

    const std::uint8_t* codes = nullptr;  // (rows, groups, 64)
    const float* books = nullptr;         // (1 or rows, book_size)

    std::uint64_t group_columns() const { return 512 / bits; }
    std::uint64_t groups() const { return (columns + group_columns() - 1) / group_columns(); }
    std::uint64_t padded_columns() const { return groups() * group_columns(); }
    // Shifted words are looked up by their low 4 bits, so a shorter book stands there repeatedly.
    std::uint64_t book_size() const { return bits == 8 ? 256 : 16; }
    const float* book(std::uint64_t row) const { return books + (row_books == 1 ? row * book_size() : 0); }
};

// Bytes of a matrix. Throws std::invalid_argument: the shape cannot be represented.
std::size_t codes_bytes(const CodeMatrix& shape);

// Fills `out`. `codes` are rows * columns, `books` the codebook, or those of the rows, of 2^bits values
// each. Throws std::invalid_argument.
void codes_pack(const CodeMatrix& shape, Span<const std::uint16_t> codes, Span<const float> books,
                Span<std::uint8_t> out);

// The matrix that lies in `bytes`. Throws std::invalid_argument: they hold none.
CodeMatrix codes_view(Span<const std::uint8_t> bytes);

void codes_to_dense(const CodeMatrix& matrix, float* out);

}  // namespace tersor

// A dense matrix of small integers in the memory of a deployed layer: value = scale * (code - zero).
//
// Scale and zero point belong to a row and to a group of `group` neighbouring columns. Rows lie 16 to
// a block, one to each 32-bit lane of a vector. A piece is 64 bytes: byte j of lane r holds codes of
// row r, low bits first, that stand 4 columns apart: with 4 bits those of columns j and 4 + j, with 2
// bits of j, 4 + j, 8 + j and 12 + j. So one shift gives 4 neighbouring columns of 16 rows, as dot
// products of bytes want them. Rows are padded to 16 and groups to whole pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../span.hpp"

namespace tersor {

constexpr std::uint64_t integer_rows = 16;  // of a block

struct IntegerMatrix {
    std::uint64_t rows = 0, columns = 0;
    std::uint64_t bits = 0;   // of a code: 2, 4 or 8
    std::uint64_t group = 0;  // columns that share a scale and a zero point; the last group may have fewer

    const float* scales = nullptr;        // (blocks, groups, 16)
    const std::int16_t* zeros = nullptr;  // (blocks, groups, 16)
    const std::uint8_t* codes = nullptr;  // (blocks, pieces, 64)

    std::uint64_t blocks() const { return (rows + integer_rows - 1) / integer_rows; }
    std::uint64_t groups() const { return (columns + group - 1) / group; }
    std::uint64_t piece_columns() const { return 32 / bits; }
    std::uint64_t group_columns(std::uint64_t g) const { return g + 1 == groups() ? columns - g * group : group; }
    std::uint64_t group_pieces(std::uint64_t g) const { return (group_columns(g) + piece_columns() - 1) / piece_columns(); }
    std::uint64_t pieces() const { return (groups() - 1) * group_pieces(0) + group_pieces(groups() - 1); }
    std::uint64_t padded_columns() const { return pieces() * piece_columns(); }
    // Where a group begins in a padded row.
    std::uint64_t group_begin(std::uint64_t g) const { return g * group_pieces(0) * piece_columns(); }
};

// Bytes of a matrix. Throws std::invalid_argument: the shape cannot be represented.
std::size_t integers_bytes(const IntegerMatrix& shape);

// Fills `out`. `integers` are (rows, columns), `scales` (rows, groups). A group's zero point is the
// middle of the codes if its integers allow that, else its least integer is code 0.
// Throws std::invalid_argument: a group has integers beyond +-255 or further apart than codes are.
void integers_pack(const IntegerMatrix& shape, Span<const std::int16_t> integers, Span<const float> scales, Span<std::uint8_t> out);

bool holds_integers(Span<const std::uint8_t> bytes);

// The matrix that lies in `bytes`. Throws std::invalid_argument: they hold none.
IntegerMatrix integers_view(Span<const std::uint8_t> bytes);

void integers_to_dense(const IntegerMatrix& matrix, float* out);

}  // namespace tersor

// A sparse matrix in the memory of a deployed layer: one block of bytes that holds all of it.
//
// Rows are grouped into blocks, columns into tiles. Entries lie block by block, in a block tile by
// tile, in a tile row by row; `counts` says how many each (block, tile, row) has. An entry is a
// 16-bit word: its column within the tile above its code. Codes index `book`; without codes the
// entry's value stands in `values`. So an entry takes 2 bytes with a codebook, 6 without.
//
// The layout lives in memory only: it is made when a model is deployed and is no file format.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../span.hpp"

namespace tersor {

struct SparseShape {
    std::uint64_t rows = 0, columns = 0;
    std::uint64_t row_block = 0;  // rows of a block
    std::uint64_t tile = 0;       // columns of a tile; tile << code_bits is at most 65,536
    std::uint64_t code_bits = 0;  // 0 = direct values, else 4 (up to 16 codes) to 8
    std::uint64_t entries = 0;

    std::uint64_t blocks() const { return (rows + row_block - 1) / row_block; }
    std::uint64_t tiles() const { return (columns + tile - 1) / tile; }
    std::uint64_t block_rows(std::uint64_t block) const {
        const std::uint64_t left = rows - block * row_block;
        return left < row_block ? left : row_block;
    }
};

struct SparseMatrix : SparseShape {
    const std::uint64_t* starts = nullptr;  // blocks + 1: first entry of each block
    const std::uint16_t* counts = nullptr;  // (blocks, tiles, row_block)
    const std::uint16_t* words = nullptr;   // entries, and 32 more that may be read but mean nothing
    const float* values = nullptr;          // entries, as above; null with codes
    const float* book = nullptr;            // 256 centroids, zeros behind the last; null without codes
};

// Bytes of a matrix. Throws std::invalid_argument: the shape cannot be represented.
std::size_t sparse_bytes(const SparseShape& shape);

// Fills `out`, of `sparse_bytes(shape)` bytes at an address that is a multiple of 8.
// `positions` are row * columns + column, ascending. `codes` with `book`, or `values`: the other is empty.
// Throws std::invalid_argument: positions that do not ascend or lie outside, a code beyond the book.
void sparse_pack(const SparseShape& shape, Span<const std::int64_t> positions,
                 Span<const std::uint16_t> codes, Span<const float> book, Span<const float> values,
                 Span<std::uint8_t> out);

// The matrix that lies in `bytes`. Throws std::invalid_argument: they hold none, by their head.
SparseMatrix sparse_view(Span<const std::uint8_t> bytes);

// Checks every count, column and code, as `sparse_view` does not. Throws std::invalid_argument.
void sparse_check(const SparseMatrix& matrix);

// All entries as (row, column, value), by row and in it by column: into a dense matrix of zeros.
void sparse_to_dense(const SparseMatrix& matrix, float* out);

// Row `row` of a matrix whose blocks have one row each, into `out` of `columns` floats.
void sparse_row(const SparseMatrix& matrix, std::uint64_t row, float* out);

}  // namespace tersor

"""The values of a weight matrix, brought into the memory layout of a kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor import _native
from tersor.run.grids import Grid, grid_of, row_books

_MOST_CODES = 256
_NO_CODES = np.zeros(0, np.uint16)
_NO_VALUES = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Entries:
    """The weights of a matrix that are not zero.

    Args:
        rows, columns: of the matrix.
        positions: (entries,) row * columns + column, ascending.
        codes, book: (entries,) and (size,): which one of the distinct values each entry is, of at
            most 256; the book ascends. None = there are more, and `values` holds them.
        values: (entries,) or None.
    """

    rows: int
    columns: int
    positions: NDArray[np.int64]
    codes: NDArray[np.uint16] | None
    book: NDArray[np.float32] | None
    values: NDArray[np.float32] | None

    @property
    def density(self) -> float:
        return len(self.positions) / (self.rows * self.columns)

    @cached_property
    def grid(self) -> Grid | None:
        """The integers and scales that all weights are made of, the zeros included."""
        return grid_of(self.dense().numpy())

    def dense(self) -> Tensor:
        """The matrix, (rows, columns)."""
        out = np.zeros(self.rows * self.columns, np.float32)
        if self.codes is not None and self.book is not None:
            out[self.positions] = self.book[self.codes]
        else:
            out[self.positions] = self.values
        return torch.from_numpy(out.reshape(self.rows, self.columns))

    def spread(self, groups: int) -> Entries:
        """The matrix of a grouped convolution as that of a full one, whose other weights are zero.

        Row r belongs to group r // (rows / groups); its columns move there.
        """
        if groups == 1:
            return self
        row, column = np.divmod(self.positions, self.columns)
        wide = self.columns * groups
        group = row // (self.rows // groups)
        return replace(self, columns=wide, positions=row * wide + group * self.columns + column)

    def transposed(self) -> Entries:
        """The matrix (columns, rows)."""
        row, column = np.divmod(self.positions, self.columns)
        positions = column * self.rows + row
        order = np.argsort(positions, kind="stable")
        return Entries(
            self.columns,
            self.rows,
            positions[order],
            None if self.codes is None else self.codes[order],
            self.book,
            None if self.values is None else self.values[order],
        )

    def some_rows(self, first: int, last: int) -> Entries:
        """Rows first to last - 1."""
        lower, upper = np.searchsorted(
            self.positions, (first * self.columns, last * self.columns)
        ).tolist()
        return replace(
            self,
            rows=last - first,
            positions=self.positions[lower:upper] - first * self.columns,
            codes=None if self.codes is None else self.codes[lower:upper],
            values=None if self.values is None else self.values[lower:upper],
        )


def entries_of(matrix: Tensor) -> Entries:
    """The entries of a float32 matrix (rows, columns) on the CPU."""
    flat = matrix.detach().contiguous().view(-1).numpy()
    positions = np.flatnonzero(flat).astype(np.int64, copy=False)
    return coded(matrix.shape[0], matrix.shape[1], positions, flat[positions])


def coded(
    rows: int, columns: int, positions: NDArray[np.int64], values: NDArray[np.float32]
) -> Entries:
    """Entries with a codebook where there are at most 256 distinct values, else as they are."""
    book = _book(values)
    if book is None:
        return Entries(rows, columns, positions, None, None, values)
    codes = np.searchsorted(book, values).astype(np.uint16)
    return Entries(rows, columns, positions, codes, book, None)


def _book(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The distinct values, ascending, or None if there are too many or one is NaN."""
    book = np.unique(values[:: max(1, len(values) // 4096)])
    while len(book) <= _MOST_CODES and not np.isnan(book).any():
        if len(book) == 0:
            return np.zeros(1, np.float32)
        nearest = np.minimum(np.searchsorted(book, values), len(book) - 1)
        others = values[book[nearest] != values]
        if len(others) == 0:
            return book
        # Some of those that were missed: all of them might be as many as there are weights.
        book = np.union1d(book, others[:4096])
    return None


def pack_sparse(entries: Entries, *, tile: int, row_block: int | None = None) -> Tensor:
    """A sparse matrix for the kernels, as bytes.

    Args:
        tile: columns that are worked on together, at most 32,768 and less with codes of more bits:
            columns and codes share 16 bits.
        row_block: rows of a block; None takes 16 blocks or more, of 8 to 128 rows.
    """
    bits = code_bits(entries)
    if row_block is None:
        row_block = 1 << min(7, max(3, (entries.rows // 16).bit_length() - 1))
    rows, columns = entries.rows, entries.columns
    size = _native.sparse_bytes(rows, columns, row_block, tile, bits, len(entries.positions))
    out = torch.empty(size, dtype=torch.uint8)
    _native.sparse_pack(
        rows,
        columns,
        row_block,
        tile,
        bits,
        entries.positions,
        _NO_CODES if entries.codes is None else entries.codes,
        _NO_VALUES if entries.book is None else entries.book,
        _NO_VALUES if entries.values is None else entries.values,
        out.numpy(),
    )
    return out


def code_bits(entries: Entries) -> int:
    """Bits of a code in a sparse matrix: 4 to 8, or 0 without a codebook."""
    return 0 if entries.book is None else max(4, (len(entries.book) - 1).bit_length())


def widest_tile(entries: Entries) -> int:
    """The most columns of a tile that fit beside the codes."""
    return min(32768, 65536 >> code_bits(entries))


def pack_codes(entries: Entries) -> Tensor | None:
    """A dense matrix of codes of 1, 2, 4 or 8 bits, as bytes; None if there are too many values.

    Zero counts as a value where a weight is zero.
    """
    if entries.codes is None or entries.book is None:
        return None
    count = entries.rows * entries.columns
    book, codes = entries.book, np.zeros(count, np.uint16)
    if len(entries.positions) < count:
        zero = int(np.searchsorted(book, 0.0))
        book = np.insert(book, zero, 0.0)
        codes[:] = zero
        codes[entries.positions] = entries.codes + (entries.codes >= zero)
    else:
        codes[entries.positions] = entries.codes
    if len(book) > _MOST_CODES:
        return None
    bits = next(b for b in (1, 2, 4, 8) if len(book) <= 1 << b)
    return _packed_codes(entries, bits, False, codes, book.astype(np.float32))


def pack_row_codes(entries: Entries) -> Tensor | None:
    """A matrix of 4-bit codes with a codebook for each row, as bytes; None if a row has more."""
    found = row_books(entries.dense().numpy())
    return None if found is None else _packed_codes(entries, 4, True, found[1].ravel(), found[0])


def pack_integers(entries: Entries) -> Tensor | None:
    """A dense matrix of integers of 2, 4 or 8 bits with scales, as bytes; None if it is no grid."""
    grid = entries.grid
    if grid is None:
        return None
    sides = entries.rows, entries.columns, grid.bits, grid.group
    out = torch.empty(_native.integers_bytes(*sides), dtype=torch.uint8)
    _native.integers_pack(*sides, grid.integers.ravel(), grid.scales.ravel(), out.numpy())
    return out


def scaled_rows(entries: Entries) -> tuple[Entries, Tensor] | None:
    """The entries as integers of at most 256 values and a scale for each row, or None."""
    grid = entries.grid
    if grid is None or grid.group != entries.columns:
        return None
    integers = grid.integers.ravel()[entries.positions].astype(np.float32)
    made = coded(entries.rows, entries.columns, entries.positions, integers)
    return None if made.book is None else (made, torch.from_numpy(grid.scales.ravel()))


def _packed_codes(
    entries: Entries,
    bits: int,
    row_books: bool,
    codes: NDArray[np.uint16],
    books: NDArray[np.float32],
) -> Tensor:
    sides = entries.rows, entries.columns, bits, row_books
    out = torch.empty(_native.codes_bytes(*sides), dtype=torch.uint8)
    _native.codes_pack(*sides, codes, books.ravel(), out.numpy())
    return out


def refusal(given: Tensor, own: Tensor) -> str:
    """Why packed bytes cannot take the place of others in a layer, or "" where they can."""
    given = given.cpu()
    if given.shape != own.shape:
        return ""  # torch itself tells
    if given.dtype != torch.uint8 or not torch.equal(given[:8], own[:8]):
        return "the bytes hold none of the matrices that this layer is made of"
    here, there = (t[8:40].view(torch.int64).tolist() for t in (given, own))
    if here[:2] != there[:2]:
        return f"{here[0]} x {here[1]} weights, expected {there[0]} x {there[1]}"
    try:
        if bytes(given[:7].tolist()) == b"TSPARSE":
            if here[2] != there[2]:
                return f"blocks of {here[2]} rows, expected {there[2]}"
            _native.sparse_check(given.numpy())
        elif _bytes_of(given) != len(given):
            return f"codes of {here[2]} bits in {len(given)} bytes"
    except ValueError as error:
        return str(error)
    return ""


def _bytes_of(packed: Tensor) -> int:
    """Bytes that a dense matrix takes by its head."""
    rows, columns, bits, last = packed[8:40].view(torch.int64).tolist()
    if bytes(packed[:7].tolist()) == b"INTEGER":
        return _native.integers_bytes(rows, columns, bits, last)
    return _native.codes_bytes(rows, columns, bits, bool(last))

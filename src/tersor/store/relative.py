"""Where the non-zero entries are, told by short gaps; gaps that are too long get filler entries.

Two conventions, both of `bits` bits. "gap1" stores j - previous - 1, starting from previous = -1: a
filler spans 2**bits positions. "gap" stores j - previous, starting from 0: a filler spans
2**bits - 1. The code of a filler is always the largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersor.core.errors import ConfigError, FormatError

Convention = Literal["gap1", "gap"]
Layout = Literal["flat", "row"]
Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RelativeIndex:
    """The positions of a mask as codes.

    Args:
        bits: width of a code.
        convention: "gap1" or "gap".
        layout: "flat" counts on through the whole mask, "row" starts anew in every row.
        shape: `(rows, columns)` of the mask; all sides after the first are columns.
        codes: `(entries,)`, each below 2**bits.
        fillers: `(entries,)` bool, `True` where no value belongs.
        row_pointers: `(rows + 1,)` first entry of each row, for the layout "row" alone.
    """

    bits: int
    convention: Convention
    layout: Layout
    shape: tuple[int, int]
    codes: NDArray[np.uint16]
    fillers: NDArray[np.bool_]
    row_pointers: Positions | None = None

    def spread(self, values: ArrayLike) -> NDArray[Any]:
        """The array V: the values of the kept entries with a 0 at each filler.

        Raises:
            ConfigError: there are not as many values as kept entries.
        """
        kept = np.asarray(values)
        if kept.shape != (int((~self.fillers).sum()),):
            raise ConfigError(
                f"spread: values of shape {kept.shape}, expected ({int((~self.fillers).sum())},)"
            )
        spread = np.zeros(len(self.codes), kept.dtype)
        spread[~self.fillers] = kept
        return spread

    def mask(self) -> NDArray[np.bool_]:
        """The mask `(rows, columns)` that was indexed.

        Raises:
            FormatError: the codes point outside of it.
        """
        rows, columns = self.shape
        if self.row_pointers is None:
            flat = positions_of(
                self.codes, self.fillers, self.bits, self.convention, rows * columns
            )
        else:
            steps = np.cumsum(_steps(self.codes, self.convention))
            before = np.concatenate([np.zeros(1, np.int64), steps])[self.row_pointers[:-1]]
            row = np.repeat(np.arange(rows), np.diff(self.row_pointers))
            column = steps - before[row] - (self.convention == "gap1")
            if len(column) and column.max() >= columns:
                raise FormatError(f"column {column.max()}, but a row has {columns}")
            flat = (row * columns + column)[~self.fillers]
        mask = np.zeros(rows * columns, np.bool_)
        mask[flat] = True
        return mask.reshape(self.shape)


def relative_index(
    mask: ArrayLike, *, bits: int, convention: Convention = "gap1", layout: Layout = "flat"
) -> RelativeIndex:
    """Relative index codes of the `True` entries of a mask.

    Args:
        mask: bool, at least one side; sides after the first are taken as one.
        bits: width of a code, 1 to 16.
        convention: "gap1" (never more fillers) or "gap" (as in the worked matrix of the slides).
        layout: "flat" or "row".

    Raises:
        ConfigError: an argument is out of range.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, figure 2, which is "gap1" and "flat".

    >>> row = np.zeros(16, bool)
    >>> row[[1, 4, 15]] = True
    >>> index = relative_index(row, bits=3)
    >>> index.codes.tolist(), index.spread([3.4, 0.9, 1.7]).tolist()
    ([1, 2, 7, 2], [3.4, 0.9, 0.0, 1.7])
    """
    kept = np.asarray(mask)
    if kept.dtype != np.bool_ or kept.ndim == 0:
        raise ConfigError(
            f"relative_index: mask of dtype {kept.dtype} and {kept.ndim} sides, "
            "expected bool and at least one"
        )
    if not 1 <= bits <= 16:
        raise ConfigError(f"relative_index: bits {bits}, expected 1 to 16")
    if convention not in ("gap1", "gap"):
        raise ConfigError(f"relative_index: convention {convention!r}, expected 'gap1' or 'gap'")
    if layout not in ("flat", "row"):
        raise ConfigError(f"relative_index: layout {layout!r}, expected 'flat' or 'row'")
    rows = kept.shape[0] if kept.ndim > 1 else 1
    columns = math.prod(kept.shape[1:]) if kept.ndim > 1 else kept.size
    flat = np.flatnonzero(kept)
    if layout == "flat":
        codes, fillers = codes_of(flat, bits, convention)
        return RelativeIndex(bits, convention, layout, (rows, columns), codes, fillers)
    row, column = np.divmod(flat, max(columns, 1))
    first = np.diff(row, prepend=-1) != 0
    origin = -1 if convention == "gap1" else 0
    previous = np.where(first, origin, np.concatenate([[0], column[:-1]])) if len(flat) else column
    rest, spans = _split(column - previous, bits, convention)
    entries = np.bincount(row, weights=spans + 1, minlength=rows).astype(np.int64)
    pointers = np.concatenate([np.zeros(1, np.int64), np.cumsum(entries)])
    codes, fillers = _expand(rest, spans, bits)
    return RelativeIndex(bits, convention, layout, (rows, columns), codes, fillers, pointers)


def csr_index(mask: ArrayLike) -> tuple[Positions, Positions]:
    """Column of each `True` entry and first entry of each row: CSR without fillers.

    >>> csr_index(np.array([[False, True, True], [False, False, False]]))
    (array([1, 2]), array([0, 2, 2]))
    """
    kept = np.asarray(mask, np.bool_)
    rows = kept.shape[0] if kept.ndim > 1 else 1
    row, columns = np.nonzero(kept.reshape(rows, kept.size // rows if rows else 0))
    entries = np.bincount(row, minlength=rows)
    return columns, np.concatenate([np.zeros(1, np.int64), np.cumsum(entries)])


def codes_of(
    positions: Positions, bits: int, convention: Convention
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Codes and filler flags of ascending positions, in the flat layout."""
    rest, spans = gaps_of(positions, bits, convention)
    return _expand(rest, spans, bits)


def gaps_of(positions: Positions, bits: int, convention: Convention) -> tuple[Positions, Positions]:
    """The final code of each position and the number of fillers before it, in the flat layout."""
    gaps = np.diff(positions, prepend=-1 if convention == "gap1" else 0)
    return _split(gaps, bits, convention)


def positions_of(
    codes: NDArray[np.uint16],
    fillers: NDArray[np.bool_],
    bits: int,
    convention: Convention,
    count: int,
) -> Positions:
    """The inverse of `codes_of` for a row of `count` positions.

    Raises:
        FormatError: a position lies outside or does not ascend, or a filler is no filler.
    """
    if np.any(codes[fillers] != (1 << bits) - 1):
        raise FormatError("a filler does not have the largest index code")
    positions = np.cumsum(_steps(codes, convention)) - (convention == "gap1")
    if len(positions) and positions[-1] >= count:
        raise FormatError(f"position {positions[-1]}, but there are {count}")
    kept = positions[~fillers]
    if convention == "gap" and np.any(kept[1:] == kept[:-1]):
        raise FormatError("a position comes twice")
    return kept


def _steps(codes: NDArray[np.uint16], convention: Convention) -> Positions:
    return codes.astype(np.int64) + (convention == "gap1")


def _split(gaps: Positions, bits: int, convention: Convention) -> tuple[Positions, Positions]:
    if convention == "gap1":
        return (gaps - 1) & ((1 << bits) - 1), (gaps - 1) >> bits
    largest = (1 << bits) - 1
    spans = np.maximum(gaps - 1, 0) // largest
    return gaps - spans * largest, spans


def _expand(
    rest: Positions, spans: Positions, bits: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    last = np.cumsum(spans + 1) - 1  # the entry that holds each value, after its fillers
    entries = int(last[-1]) + 1 if len(last) else 0
    codes = np.full(entries, (1 << bits) - 1, np.uint16)
    fillers = np.ones(entries, np.bool_)
    codes[last] = rest
    fillers[last] = False
    return codes, fillers

"""What the names of kernels in a plan say of the layout of a weight."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from tersor.run.calls import Matrix
from tersor.run.packing import (
    Entries,
    pack_codes,
    pack_integers,
    pack_row_codes,
    pack_sparse,
    widest_tile,
)

_TILES = (1024, 256)  # besides the widest
_INTEGERS = re.compile(r"integers|int[248]( group [1-9][0-9]{0,9})?")


def of_integers(kernel: str) -> bool:
    """Whether the name is that of a grid of integers, or of several, "integers"."""
    return _INTEGERS.fullmatch(kernel) is not None


def tiles(widest: int, columns: int) -> list[int]:
    """Tiles worth timing: one that holds as many columns as it may, and narrower ones."""
    return sorted({min(widest, t) for t in (widest, *_TILES) if t < columns or t == widest})[::-1]


def laid_out(
    kernel: str, entries: Entries, *, row_block: int | None = None
) -> tuple[Matrix, Tensor] | None:
    """The weight as a kernel of this name wants it, and which kind of matrix it is, or None."""
    if kernel == "codes":
        packed = pack_codes(entries)
        return None if packed is None else ("codes", packed)
    if kernel == "row codes":
        packed = pack_row_codes(entries)
        return None if packed is None else ("codes", packed)
    if of_integers(kernel):
        grid = entries.grid
        fits = grid is not None and kernel in ("integers", grid.name)
        packed = pack_integers(entries) if fits else None
        return None if packed is None else ("codes", packed)
    kind, _, tile = kernel.partition("/")
    if kind == "values" and entries.codes is not None and entries.book is not None:
        entries = replace(entries, codes=None, book=None, values=entries.book[entries.codes])
    return "sparse", pack_sparse(
        entries, tile=min(int(tile), widest_tile(entries)), row_block=row_block
    )

"""What a part of a tensor holds, without the zeros around it: words, and where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.store.relative import Positions
from tersor.store.words import Grid, Words, from_words


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of one part as its streams tell them; fillers are none.

    Args:
        grid: of the part.
        places: which words of the part they are: a map of all places, or the row-major index of
            each entry; None = every word.
        values: the word of each entry, or its code where there is a codebook.
        codebook: the distinct words, ascending.
    """

    grid: Grid
    places: NDArray[np.bool_] | Positions | None
    values: Words
    codebook: Words | None

    @property
    def words(self) -> Words:
        """The word of each entry."""
        return self.values if self.codebook is None else self.codebook[self.values]

    def by_row(self) -> Entries:
        """The same entries in row-major order, indices instead of a map, codes of least size."""
        places, values = self.places, self.values
        if places is not None and places.dtype == np.bool_:
            places = np.flatnonzero(places)
        elif places is not None and np.any(places[1:] < places[:-1]):
            # Scanned by column: within a row they ascend already. Small numbers sort faster.
            rows = (places // self.grid.columns).astype(np.min_scalar_type(self.grid.rows))
            order = np.argsort(rows, kind="stable")
            places, values = places[order], values[order]
        if self.codebook is not None and len(self.codebook) <= 256:
            values = values.astype(np.uint8)
        return replace(self, places=places, values=values)


@dataclass(frozen=True, eq=False)
class PartEntries:
    """The entries of one part of a tensor, as `Reader.entries` yields them.

    All places count row-major. What is at no place is zero. A complex element is two, as in
    `torch.view_as_real`, and `codebook` or `values` are of its real dtype.

    Args:
        begin: where the part begins in the tensor.
        count: length of the part.
        positions: (entries,) int64, ascending: where each entry is in the part, from 0 to
            `count` - 1. None = there are `count` entries, one at each place; some may be zero.
        codes: (entries,) uint8, or uint16 if the codebook has more than 256 values: which one of
            the codebook each entry is. None = there is no codebook.
        codebook: (size,) the distinct values, in the tensor's dtype. None = there is none.
        values: (entries,) the value of each entry, in the tensor's dtype. None = there are codes.
    """

    begin: int
    count: int
    positions: Tensor | None
    codes: Tensor | None
    codebook: Tensor | None
    values: Tensor | None


def part_entries(begin: int, entries: Entries, dtype: torch.dtype) -> PartEntries:
    """Entries by row as tensors.

    Args:
        begin: where their part begins in the tensor.
        dtype: of the tensor.
    """
    places, values, codebook = entries.places, entries.values, entries.codebook
    return PartEntries(
        begin,
        entries.grid.count,
        None if places is None else torch.from_numpy(places),
        None if codebook is None else torch.from_numpy(values),
        None if codebook is None else _in(codebook, dtype),
        _in(values, dtype) if codebook is None else None,
    )


def _in(words: Words, dtype: torch.dtype) -> Tensor:
    real = dtype.to_real() if dtype.is_complex else dtype
    return from_words(words, real, (len(words),))

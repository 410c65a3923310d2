"""What a quantizer is: a weight to the nearest values of a grid that it has found for it.

A quantizer sees weights with output channels first, `(out, in, *kernel)`.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Quantizer(Protocol):
    """A frozen dataclass whose fields are its settings, checked when it is made."""

    @property
    def uses_importance(self) -> bool:
        """Whether `importance` may change the answer."""
        ...

    @property
    def bits(self) -> float:
        """Bits of the code of one weight; tables and scales are not counted."""
        ...

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        """The weight with its kept entries at the nearest values of its grid.

        Args:
            weight: (out, in, *kernel), finite; it stays as it is.
            kept: bool of the same shape (None: all); the grid is that of the kept entries alone,
                and the others come back as +0.0.
            importance: how much an error of each entry matters, of the same shape, not negative.
        """
        ...


class Grid(Protocol):
    """The values that one weight may take, found by a quantizer that works entry by entry."""

    def round(self, values: Tensor) -> Tensor:
        """Values of the weight's shape to the nearest of the grid.

        Idempotent, and monotone within each group of entries that share their values.
        """
        ...

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value, each broadcast to the weight's shape."""
        ...


@runtime_checkable
class GridQuantizer(Quantizer, Protocol):
    """A quantizer that works entry by entry: its grid is a thing of its own."""

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Grid:
        """The grid for a weight; arguments as those of a call."""
        ...


def bits_of(quantizer: Quantizer, shape: torch.Size) -> float:
    """Bits of the code of an entry of such a weight: `bits`, unless they depend on the shape."""
    of_shape = getattr(quantizer, "bits_of", None)
    return quantizer.bits if of_shape is None else float(of_shape(shape))


def rounded(grid: Grid, weight: Tensor, kept: Tensor | None) -> Tensor:
    """The kept entries of a weight on a grid, +0.0 elsewhere."""
    values = grid.round(weight)
    return values if kept is None else torch.where(kept, values, values.new_zeros(()))


def label(quantizer: Quantizer) -> str:
    """The name of a quantizer with those settings that are not the default.

    >>> from tersor.quantize import KMeans
    >>> label(KMeans(bits=3)), label(KMeans())
    ('KMeans(bits=3)', 'KMeans()')
    """
    if not dataclasses.is_dataclass(quantizer):
        return repr(quantizer)
    parts = []
    for field in dataclasses.fields(quantizer):
        value = getattr(quantizer, field.name)
        if field.repr and value != field.default:
            inner = dataclasses.is_dataclass(value) and isinstance(value, Quantizer)
            parts.append(f"{field.name}={label(value) if inner else repr(value)}")
    return f"{type(quantizer).__name__}({', '.join(parts)})"

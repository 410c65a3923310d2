"""Uniform grids: scale * (q - zero_point) for whole numbers q of some bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.tables import look_up
from tersor.quantize.granularity import Blocks, check_granularity
from tersor.quantize.levels import Levels
from tersor.quantize.quantizer import rounded
from tersor.quantize.ranges import RANGES, Entries, Range
from tersor.quantize.rounding import Rounding, nearest

MAX_BITS = 16
"""Of an affine code."""


@dataclass(frozen=True)
class Affine:
    """Evenly spaced values, with zero among them.

    w ~ scale * (q - zero_point), q = clip(round(w / scale) + zero_point)

    Args:
        bits: of q, 1 to 16; a symmetric grid needs 2.
        granularity: what shares a scale: "tensor", "channel" (of the outputs) or "group".
        group: consecutive weights of an output channel that share one, for "group"; the last
            group of a channel may be short.
        symmetric: zero point 0 and q from -n to n, n = 2**(bits - 1) - 1; else q from 0 to
            2**bits - 1.
        range: what the grid covers, a name of `RANGES` or one of its classes; only "mse" uses
            importance.

    Raises:
        ConfigError: a setting is out of range.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 2; Krishnamoorthi 2018, arXiv 1806.08342.

    >>> weight = torch.tensor([[-1.0, 0.3, 0.5], [2.0, 0.1, 0.0]])
    >>> Affine(bits=2)(weight).tolist(), Affine(bits=2, granularity="tensor")(weight).tolist()
    ([[-1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    """

    bits: int = 8
    granularity: str = "channel"
    group: int = 128
    symmetric: bool = True
    range: str | Range = "minmax"
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        least = 2 if self.symmetric else 1
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not least <= self.bits <= MAX_BITS:
            kind = "a symmetric grid" if self.symmetric else "an affine grid"
            raise ConfigError(
                f"bits: {self.bits!r}; expected a whole number from {least} to {MAX_BITS} "
                f"for {kind}"
            )
        check_granularity(self.granularity, self.group)
        look_up("range", self.range, RANGES)

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> AffineGrid:
        blocks = Blocks.of(tuple(weight.shape), self.granularity, self.group)
        levels = Levels(self.bits, self.symmetric)
        values = weight.to(_working(weight.dtype))
        if kept is not None:
            values = torch.where(kept, values, 0.0)
        elif blocks.padding:
            kept = torch.ones_like(weight, dtype=torch.bool)
        entries = Entries(
            blocks.split(values).flatten(0, 1),
            None if kept is None else blocks.split(kept).flatten(0, 1),
            None if importance is None else blocks.split(importance).flatten(0, 1),
        )
        low, high = look_up("range", self.range, RANGES)(entries, levels)
        shape = (blocks.rows, blocks.per_row)
        scale, zero_point = (t.view(shape) for t in levels.parameters(low, high))
        return AffineGrid(scale, zero_point, self.bits, self.symmetric, blocks)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class AffineGrid:
    """The values scale * (q - zero_point), with a scale for each block of a weight.

    Args:
        scale: (rows, blocks of a row) float32, float64 for weights of float64; above 0.
        zero_point: the same shape, int32; all 0 if symmetric.
        bits, symmetric: which integers there are, as in `Affine`.
        blocks: which entries share a scale.
    """

    scale: Tensor
    zero_point: Tensor
    bits: int
    symmetric: bool
    blocks: Blocks

    @property
    def levels(self) -> Levels:
        """The integers of the grid."""
        return Levels(self.bits, self.symmetric)

    def round(self, values: Tensor, rounding: Rounding = nearest) -> Tensor:
        """The nearest values of the grid, or as another rounding says; never -0.0."""
        return self._decoded(self._steps(values, rounding)).to(values.dtype)

    def integers(self, values: Tensor, rounding: Rounding = nearest) -> Tensor:
        """q of each value, int32, of the weight's shape."""
        steps = self._steps(values, rounding).to(torch.int32)
        return self.blocks.join(steps + self.zero_point[..., None])

    def decode(self, integers: Tensor) -> Tensor:
        """The values of some q: one multiplication scale * (q - zero_point) in the scale's dtype.

        For float32 weights `decode(integers(w))` has the bits of `round(w)`.
        """
        steps = self.blocks.split(integers) - self.zero_point[..., None]
        return self._decoded(steps.to(self.scale.dtype))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value, each broadcast to the weight's shape."""
        low, high = (
            self.blocks.spread(self.scale * (end - self.zero_point))
            for end in (self.levels.low, self.levels.high)
        )
        return low, high

    def columns(self, start: int, stop: int) -> AffineGrid:
        """The grid of a part of a weight: these of its columns, flattened to (out, in * kernel).

        For what rounds a weight column after column.
        """
        out = self.blocks.shape[0] if self.blocks.shape else 1
        part = Blocks((out, stop - start), out, 1)
        if self.blocks.rows != out:
            scale, zero_point = (
                tensor.expand(out, stop - start) for tensor in (self.scale, self.zero_point)
            )
        else:
            at = torch.arange(start, stop, device=self.scale.device) // self.blocks.size
            scale, zero_point = self.scale[:, at], self.zero_point[:, at]
        return AffineGrid(scale, zero_point, self.bits, self.symmetric, part)

    def _steps(self, values: Tensor, rounding: Rounding) -> Tensor:
        """q - zero_point as floats, (rows, blocks of a row, size)."""
        steps = rounding(self.blocks.split(values.to(self.scale.dtype)) / self.scale[..., None])
        if self.symmetric:
            return steps.clamp_(self.levels.low, self.levels.high)
        zero_point = self.zero_point[..., None].to(steps.dtype)
        return steps.clamp_(self.levels.low - zero_point, self.levels.high - zero_point)

    def _decoded(self, steps: Tensor) -> Tensor:
        values = (steps * self.scale[..., None]).add_(0.0)  # -0.0 becomes 0.0
        return self.blocks.join(values)


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32

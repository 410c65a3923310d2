"""Several bits a weight: a sum of signs, each with a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.quantizer import rounded
from tersor.quantize.scales import as_rows, check_share, importances

MOST_PLANES = 8


@dataclass(frozen=True)
class MultiBinary:
    """A weighted sum of `bits` sign tensors, each shifted by another share of the deviation.

    w ~ sum(a_i * b_i),  b_i = sign(w - mean + u_i * deviation),  u_i from -1 to 1 evenly,
    with the a_i of least squares; one plane alone has u = 0. As the signs are nested, a weight has
    one of bits + 1 values.

    Args:
        bits: sign tensors, 1 to 8.
        granularity: what shares the scales: "tensor" (the paper's) or "channel".

    Raises:
        ConfigError: a setting is out of range.

    Source: Lin, Zhao and Pan 2017, arXiv 1711.11294, eq. 2 to 4. Where least squares would let
    values fall as weights rise, neighbouring values are pooled, so that the grid stays monotone.
    Each weight then takes the nearest of the values, which the shifts alone do not give; a weight
    with bits + 1 values or fewer stays as it is.

    >>> MultiBinary(bits=2)(torch.tensor([[-3.0, -1.0, 1.0, 3.0]])).tolist()
    [[-3.0, 0.0, 0.0, 3.0]]
    """

    bits: int = 3
    granularity: str = "tensor"
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 1 <= self.bits <= MOST_PLANES:
            raise ConfigError(
                f"bits: {self.bits!r}; expected a whole number from 1 to {MOST_PLANES}, "
                "the number of sign tensors"
            )
        check_share(self.granularity)

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> StepGrid:
        values = as_rows(weight, self.granularity)
        counts = as_rows(importances(weight, kept, importance), self.granularity)
        rows = [_fit_row(v.double(), c, self.bits) for v, c in zip(values, counts, strict=True)]
        empty = [(weight.new_zeros(0, self.bits), weight.new_zeros(0, self.bits + 1))]
        parts = zip(*(rows or empty), strict=True)
        steps, levels = (torch.stack(part) if rows else part[0] for part in parts)
        return StepGrid(steps.to(weight), levels.to(weight), weight.dim())

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class StepGrid:
    """Values between thresholds: a stair for each group.

    Args:
        steps: (groups, k) ascending thresholds; a value that equals one lies above it.
        levels: (groups, k + 1) ascending values.
        dims: of the weight.
    """

    steps: Tensor
    levels: Tensor
    dims: int

    def round(self, values: Tensor) -> Tensor:
        """The value of the stair at each entry."""
        rows = values.reshape(len(self.levels), -1)
        codes = torch.searchsorted(self.steps, rows.contiguous(), right=True)
        return self.levels.gather(1, codes).view(values.shape) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (self.dims - 1))[: self.dims]
        return self.levels[:, 0].view(shape), self.levels[:, -1].view(shape)


def _fit_row(values: Tensor, counts: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Thresholds (k,) and levels (k + 1,) for the entries of one group, in float64."""
    counted = counts > 0
    values, counts = values[counted], counts[counted]
    if len(values) == 0:
        return values.new_zeros(bits), values.new_zeros(bits + 1)
    distinct: Tensor = values.unique()
    if len(distinct) <= bits + 1:
        levels = torch.cat([distinct, distinct[-1:].expand(bits + 1 - len(distinct))])
        return (levels[1:] + levels[:-1]) / 2, levels
    shifts = torch.linspace(1, -1, bits) if bits > 1 else torch.zeros(1)
    steps = values.mean() - shifts.to(values) * values.std(correction=0)
    codes = torch.bucketize(values, steps, right=True)
    sizes = values.new_zeros(bits + 1).index_add_(0, codes, counts)
    sums = values.new_zeros(bits + 1).index_add_(0, codes, counts * values)
    # Sums of nested signs are all stairs whose ends are opposite: the means, but for the ends.
    levels = sums / sizes.clamp(min=1e-300)
    end = (sums[-1] - sums[0]) / (sizes[-1] + sizes[0]).clamp(min=1e-300)
    levels[0], levels[-1] = -end, end
    for place in range(1, bits):
        if sizes[place] == 0:
            levels[place] = levels[place - 1]
    levels = _ascending(levels, sizes)
    return (levels[1:] + levels[:-1]) / 2, levels


def _ascending(levels: Tensor, sizes: Tensor) -> Tensor:
    """The nearest ascending values: neighbours in the wrong order become their mean."""
    pools: list[list[float]] = []  # [mean, size, levels in it]
    for level, size in zip(levels.tolist(), sizes.tolist(), strict=True):
        pools.append([level, size, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, size, count), (before, other, more) = pools.pop(), pools.pop()
            total = size + other
            pooled = (mean * size + before * other) / total if total else before
            pools.append([pooled, total, count + more])
    return levels.new_tensor([mean for mean, _, count in pools for _ in range(int(count))])

"""Which range of values an affine grid covers: what it clips against how fine it is.

A range is found for each of many groups of entries at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.quantize.levels import Levels


@dataclass(frozen=True, eq=False)
class Entries:
    """Groups of numbers.

    Args:
        values: (groups, n) float32 or float64, 0 where not kept.
        kept: (groups, n) bool; None: all.
        importance: (groups, n), not negative; None: all alike.
    """

    values: Tensor
    kept: Tensor | None = None
    importance: Tensor | None = None

    def counts(self) -> Tensor:
        """(groups,) kept entries."""
        if self.kept is None:
            return torch.full_like(self.values[:, 0], self.values.shape[1], dtype=torch.int64)
        return self.kept.sum(dim=1)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """(groups,) lowest and highest value, 0 among them."""
        low, high = self.values.aminmax(dim=1)
        return low.clamp(max=0), high.clamp(min=0)


Range = Callable[[Entries, Levels], tuple[Tensor, Tensor]]
"""Groups and the integers of the grid to the lowest and highest value, each (groups,)."""


@dataclass(frozen=True)
class MinMax:
    """From the least to the greatest value: nothing is clipped."""

    def __call__(self, entries: Entries, levels: Levels) -> tuple[Tensor, Tensor]:
        return entries.extremes()


@dataclass(frozen=True)
class Percentile:
    """The range that holds a share of the values; what lies outside is clipped.

    A symmetric grid drops the largest absolute values, any other as many at each end.

    Args:
        share: of the kept values that are inside, 0 < share <= 1.
    """

    share: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"percentile: share {self.share}; expected 0 < share <= 1")

    def __call__(self, entries: Entries, levels: Levels) -> tuple[Tensor, Tensor]:
        counts = entries.counts()
        if levels.symmetric:
            reach = _smallest(entries.values.abs(), entries.kept, _rank(counts, self.share))
            return -reach, reach
        share = 1 - (1 - self.share) / 2
        high = _smallest(entries.values, entries.kept, _rank(counts, share))
        low = -_smallest(-entries.values, entries.kept, _rank(counts, share))
        return low, high


@dataclass(frozen=True)
class MSE:
    """The range of the least squared error, weighted by importance, found by a search.

    The range of `MinMax` is tried times each of 25 factors from 1 down to 0.02 (for an asymmetric
    grid then each end by itself, and 0), then times factors around the best of them in two rounds
    of smaller steps. So it is never worse than `MinMax`.
    """

    def __call__(self, entries: Entries, levels: Levels) -> tuple[Tensor, Tensor]:
        low, high = entries.extremes()
        if levels.symmetric:
            high = torch.maximum(-low, high)
            low = -high

        def best(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
            below, above = torch.broadcast_tensors(below, above)
            errors = squared_errors(entries, levels, low * below, high * above)
            at = errors.argmin(dim=0, keepdim=True)  # of equal ones the first
            return below.gather(0, at)[0], above.gather(0, at)[0]

        tried = _COARSE.to(high)[:, None].expand(-1, len(high))
        below, above = best(tried, tried)
        if not levels.symmetric:
            tried = torch.cat([tried, torch.zeros_like(tried[:1])])
            below, above = best(torch.cat([below[None], tried]), above)
            below, above = best(below, torch.cat([above[None], tried]))
        for width in (1.0, 0.2):
            around = 1 + (_RATIO - 1) * width * torch.linspace(-1, 1, 9).to(high)[:, None]
            if levels.symmetric:
                below, above = best((below * around).clamp(max=1), (above * around).clamp(max=1))
            else:
                below, above = best((below * around).clamp(max=1), above)
                below, above = best(below, (above * around).clamp(max=1))
        return low * below, high * above


@dataclass(frozen=True)
class KL:
    """The threshold that keeps the most information: the least divergence of the histograms.

    Of the histogram of the absolute values, for each number i of bins from 2**(bits - 1) up, P is
    the first i bins with all that lies beyond added to the last of them, and Q the same bins merged
    to 2**(bits - 1) levels and spread over those that are not empty. The threshold is (i + 1/2)
    bins for the least KL(P || Q), and no further than the greatest value.

    Args:
        bins: of the histogram.

    Source: Migacz 2017, 8-bit inference with TensorRT. Where i is no multiple of the levels, level
    j begins at bin floor(j * i / levels); Q is of the bins without what lies beyond.
    """

    bins: int = 2048

    def __call__(self, entries: Entries, levels: Levels) -> tuple[Tensor, Tensor]:
        low, high = entries.extremes()
        reach = torch.maximum(-low, high)
        counts = histogram(entries.values.abs(), entries.kept, reach, self.bins)
        clipped = kl_threshold(counts, 2 ** (levels.bits - 1))
        reach = reach * ((clipped + 0.5) / self.bins).clamp(max=1).to(reach.dtype)
        return torch.maximum(low, -reach), torch.minimum(high, reach)


@dataclass(frozen=True)
class ACIQ:
    """The threshold that is best for a Laplace or a normal distribution of the same width.

    Whichever of the two makes the values likelier is taken; no range goes beyond the values.

    Source: Banner, Nahshan, Hoffer and Soudry 2018, arXiv 1810.05723, with their constants solved
    anew for all bits. For a symmetric grid the width is taken around 0.
    """

    def __call__(self, entries: Entries, levels: Levels) -> tuple[Tensor, Tensor]:
        low, high = entries.extremes()
        values, counts = entries.values, entries.counts().clamp(min=1)
        if levels.symmetric:
            median = mean = torch.zeros_like(low)
        else:
            mean = values.sum(dim=1) / counts
            median = _smallest(values, entries.kept, _rank(counts, 0.5))
        kept = 1.0 if entries.kept is None else entries.kept
        width = ((values - median[:, None]).abs() * kept).sum(dim=1) / counts
        deviation = (((values - mean[:, None]).square() * kept).sum(dim=1) / counts).sqrt()
        # Of the likeliest of each: -log(2 b) - 1 against -log(s sqrt(2 pi)) - 1 / 2, per value.
        laplace = torch.log(2 * width) + 1 < torch.log(deviation * math.sqrt(2 * math.pi)) + 0.5
        reach = torch.where(
            laplace,
            width * laplace_clipping(levels.bits),
            deviation * normal_clipping(levels.bits),
        )
        center = torch.where(laplace, median, mean)
        return torch.maximum(low, center - reach), torch.minimum(high, center + reach)


RANGES: dict[str, Range] = {
    "minmax": MinMax(),
    "percentile": Percentile(),
    "mse": MSE(),
    "kl": KL(),
    "aciq": ACIQ(),
}
"""Ranges by name, with their default settings."""

_RATIO = 50 ** (1 / 24)
_COARSE = torch.tensor([_RATIO**-i for i in range(25)], dtype=torch.float64)
_CHUNK = 1 << 15  # entries whose candidates are tried while they are in the processor's cache


@lru_cache
def laplace_clipping(bits: int) -> float:
    """alpha / b of the least error of a Laplace distribution of width b, with 2**bits levels.

    The minimum of 2 b**2 exp(-alpha / b) + alpha**2 / (3 * 4**bits).

    >>> [round(laplace_clipping(bits), 2) for bits in (2, 3, 4)]
    [2.83, 3.9, 5.03]
    """
    return _root(lambda a: a / (3 * 4.0**bits) - math.exp(-a))


@lru_cache
def normal_clipping(bits: int) -> float:
    """alpha / sigma of the least error of a normal distribution, with 2**bits levels.

    The minimum of (s**2 + a**2) erfc(a / (sqrt(2) s)) - sqrt(2 / pi) a s exp(-a**2 / (2 s**2))
    + a**2 / (3 * 4**bits).

    >>> [round(normal_clipping(bits), 2) for bits in (2, 3, 4)]
    [1.71, 2.15, 2.56]
    """

    def slope(a: float) -> float:  # of half the error
        tail = a * math.erfc(a / math.sqrt(2)) - math.sqrt(2 / math.pi) * math.exp(-a * a / 2)
        return tail + a / (3 * 4.0**bits)

    return _root(slope)


def _root(rising: Callable[[float], float]) -> float:
    """Where a function goes from below zero to above, in [0, 64]."""
    low, high = 0.0, 64.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high


def histogram(values: Tensor, kept: Tensor | None, reach: Tensor, bins: int) -> Tensor:
    """(groups, bins) counts of the kept values from 0 to the reach of their group."""
    shares = values / reach.clamp(min=torch.finfo(reach.dtype).tiny)[:, None]
    at = (shares * bins).long().clamp_(0, bins - 1)
    at += torch.arange(len(values), device=values.device)[:, None] * bins
    flat = at.flatten() if kept is None else at[kept]
    return torch.bincount(flat, minlength=len(values) * bins).view(len(values), bins)


def kl_threshold(counts: Tensor, levels: int) -> Tensor:
    """For each histogram (groups, bins) the number of bins that `KL` keeps, (groups,) float64.

    >>> kl_threshold(torch.ones(1, 64, dtype=torch.int64), 8).item()
    64.0
    """
    found = _native.kl_thresholds(counts.cpu().flatten().numpy(), len(counts), levels)
    return torch.from_numpy(found).to(counts.device).double()


def squared_errors(entries: Entries, levels: Levels, low: Tensor, high: Tensor) -> Tensor:
    """The sum of squared errors for candidates of ranges, each (candidates, groups); float64."""
    scales, zeros = levels.parameters(low, high)
    least, most = levels.low - zeros.to(scales), levels.high - zeros.to(scales)
    found = torch.zeros(low.shape, dtype=torch.float64, device=low.device)
    for rows, columns in _chunks(*entries.values.shape):
        values = entries.values[rows, columns]
        matter = None if entries.importance is None else entries.importance[rows, columns]
        for index in range(len(low)):
            scale = scales[index, rows, None]
            error = (values / scale).round_()
            error.clamp_(least[index, rows, None], most[index, rows, None])
            error.mul_(scale).sub_(values).square_()
            if matter is not None:
                error.mul_(matter)
            found[index, rows] += error.sum(dim=1)
    return found


def _chunks(groups: int, size: int) -> Iterator[tuple[slice, slice]]:
    rows, columns = max(_CHUNK // max(size, 1), 1), min(size, _CHUNK)
    for row in range(0, groups, rows):
        for column in range(0, size, max(columns, 1)):
            yield slice(row, row + rows), slice(column, column + columns)


def _rank(counts: Tensor, share: float) -> Tensor:
    """How many entries are as great as the quantile of a share or less, at least 1."""
    # 0.999 * 1000 is a little more than 999 in floating point.
    return (counts.double() * share - 1e-9).ceil().long().clamp(min=1)


def _smallest(values: Tensor, kept: Tensor | None, ranks: Tensor) -> Tensor:
    """(groups,) the rank-th smallest kept value; 0 where none is kept."""
    if kept is None:
        return values.kthvalue(int(ranks[0]), dim=1).values
    ordered = values.masked_fill(~kept, torch.inf).sort(dim=1).values
    found = ordered.gather(1, (ranks - 1)[:, None])[:, 0]
    return torch.where(torch.isinf(found), 0.0, found)

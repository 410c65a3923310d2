"""Which range of activations a grid covers, from what an observer has seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.quantize.levels import Levels
from tersor.quantize.observers import BINS, Observer
from tersor.quantize.ranges import kl_threshold, laplace_clipping, normal_clipping

ActivationRange = Callable[[Observer, Levels], tuple[float, float]]
"""What was seen and the integers of the grid to the lowest and highest value that is covered."""

CANDIDATES = 128


def minmax(seen: Observer, levels: Levels) -> tuple[float, float]:
    """From the least to the greatest value of all batches."""
    return seen.low, seen.high


def average(seen: Observer, levels: Levels) -> tuple[float, float]:
    """The moving averages of the extremes of each batch.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.1.
    """
    return seen.average_low, seen.average_high


def percentile(seen: Observer, levels: Levels, *, share: float = 0.9999) -> tuple[float, float]:
    """The range that holds a share of the values, as many outside at each end.

    Inside a bin values count as evenly spread. A symmetric grid leaves out the largest absolute
    values.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"percentile: share {share}; expected 0 < share <= 1")
    if levels.symmetric:
        reach = _quantile(_folded(seen), seen.zeros, seen.width, share)
        return max(seen.low, -reach), min(seen.high, reach)
    each = 1 - (1 - share) / 2
    upper, lower = seen.counts[BINS:], seen.counts[:BINS].flip(0)
    high = _quantile(upper, seen.zeros + int(lower.sum()), seen.width, each)
    low = -_quantile(lower, seen.zeros + int(upper.sum()), seen.width, each)
    return max(seen.low, low), min(seen.high, high)


def mse(seen: Observer, levels: Levels) -> tuple[float, float]:
    """The range with the least squared error, of the whole one shrunk by k / 128.

    The values of a bin count as its middle. Both ends shrink alike.
    """
    shrink = torch.arange(1, CANDIDATES + 1, dtype=torch.float64) / CANDIDATES
    lows, highs = shrink * min(seen.low, 0.0), shrink * max(seen.high, 0.0)
    filled = seen.counts > 0
    centers, counts = seen.centers()[filled].numpy(), seen.counts[filled].double().numpy()
    scales, zeros = (end.double().numpy() for end in levels.parameters(lows, highs))
    errors = _native.histogram_errors(centers, counts, scales, zeros, levels.low, levels.high)
    best = int(errors.argmin())
    return float(lows[best]), float(highs[best])


def kl(seen: Observer, levels: Levels) -> tuple[float, float]:
    """The threshold that changes the distribution of absolute values least.

    Source: Migacz 2017, "8-bit inference with TensorRT": P is the first i bins with all beyond in
    the last, Q the same bins merged to the positive levels of the grid and spread over those that
    are not empty; i makes KL(P || Q) least. Exact zeros are left out, as no grid changes them, and
    i is at least the number of levels; a grid for values of one sign has all its levels there.
    """
    counts = _folded(seen)
    one_sided = not levels.symmetric and seen.low >= 0
    positive = 2**levels.bits if one_sided else 2 ** (levels.bits - 1)
    if positive >= BINS or int(counts.sum()) == 0:
        return seen.low, seen.high
    kept = float(kl_threshold(counts[None], positive)[0])
    reach = (kept + 0.5) * seen.width if kept < BINS else math.inf
    return max(seen.low, -reach), min(seen.high, reach)


def aciq(seen: Observer, levels: Levels) -> tuple[float, float]:
    """The threshold that is best for a Laplace or a normal distribution of the same width.

    Whichever makes the values likelier. Values of one sign count as one half of a distribution
    around zero, for which an asymmetric grid has one bit more.

    Source: Banner, Nahshan, Hoffer and Soudry 2018, arXiv 1810.05723. Exact zeros are left out.
    """
    counts, centers = seen.counts.double(), seen.centers()
    number = float(counts.sum())
    if number == 0:
        return seen.low, seen.high
    one_sided = seen.low >= 0 or seen.high <= 0
    mean = middle = 0.0
    if not (levels.symmetric or one_sided):
        mean = float(counts @ centers) / number
        middle = float(centers[int((counts.cumsum(0) >= number / 2).nonzero()[0])])
    width = float(counts @ (centers - middle).abs()) / number
    deviation = math.sqrt(float(counts @ (centers - mean).square()) / number)
    bits = levels.bits + (one_sided and not levels.symmetric)
    # Of the likeliest of each: -log(2 b) - 1 against -log(s sqrt(2 pi)) - 1 / 2, per value.
    if math.log(2 * width) + 1 < math.log(deviation * math.sqrt(2 * math.pi)) + 0.5:
        center, reach = middle, width * laplace_clipping(bits)
    else:
        center, reach = mean, deviation * normal_clipping(bits)
    return max(seen.low, center - reach), min(seen.high, center + reach)


ACTIVATION_RANGES: dict[str, ActivationRange] = {
    "minmax": minmax,
    "ema": average,
    "percentile": percentile,
    "mse": mse,
    "kl": kl,
    "aciq": aciq,
}
"""Ranges of activations by name, with their default settings."""

WITHOUT_HISTOGRAM = (minmax, average)
"""Those that look at the extremes alone."""


def percentile_of(share: float) -> ActivationRange:
    """`percentile` with another share.

    >>> seen = Observer()
    >>> seen.update(torch.linspace(0, 1, 1001))
    >>> round(percentile_of(0.9)(seen, Levels(8, symmetric=False))[1], 2)
    0.95
    """
    return partial(percentile, share=share)


def _folded(seen: Observer) -> Tensor:
    """(BINS,) counts of absolute values."""
    return seen.counts[BINS:] + seen.counts[:BINS].flip(0)


def _quantile(counts: Tensor, below: int, width: float, share: float) -> float:
    """Where a share of all values lies below, of bins from zero on; 0 if zero is enough."""
    sums = counts.cumsum(0)
    wanted = share * (below + int(sums[-1])) - below
    if wanted <= 0:
        return 0.0
    at = min(int((sums >= wanted - 1e-9).nonzero()[0]), BINS - 1)
    before = float(sums[at - 1]) if at else 0.0
    return (at + (wanted - before) / float(counts[at])) * width

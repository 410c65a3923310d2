"""What values come by, batch after batch: their extremes and a histogram that grows with them.

The bins are as wide on both sides of zero, and when a value lies beyond them their width doubles:
two neighbours become one, so nothing is lost but resolution, and what is counted is what would have
been counted with the last width from the first batch on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError

BINS = 2048
"""On each side of zero."""

SAMPLE = 1 << 14
"""Values of one call that are counted; where there are more, as many at an even distance."""


class Observer:
    """Extremes and histogram of numbers that come in batches.

    `low`, `high` are the extremes of all, and `average_low`, `average_high` moving averages of
    those of each batch, the newest with a weight of 1 - momentum. `counts` is (2 * BINS,) int64:
    bin i holds the values from (i - BINS) * width up to (i - BINS + 1) * width, without the exact
    zeros, of which there are `zeros`. A zero costs no grid anything.

    Args:
        counting: whether there is a histogram; extremes alone are cheaper.
        momentum: of the averages, 0 <= momentum < 1.
        sample: of each batch at most so many values are counted, at an even distance; None: all.

    Raises:
        ConfigError: a setting is out of range.

    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 3.1.1 (extremes, averages); Migacz 2017
    (2048 bins). The sample of a large batch is ours.

    >>> observer = Observer()
    >>> observer.update(torch.tensor([-1.0, 0.0, 3.0]))
    >>> observer.update(torch.tensor([7.0]))
    >>> observer.low, observer.high, observer.zeros, observer.width * BINS
    (-1.0, 7.0, 1, 8.0)
    """

    def __init__(
        self, *, counting: bool = True, momentum: float = 0.9, sample: int | None = SAMPLE
    ) -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum: {momentum}; expected 0 <= momentum < 1")
        if sample is not None and sample < 1:
            raise ConfigError(f"sample: {sample}; expected 1 or more, or None for all")
        self.counting, self.momentum, self.sample = counting, momentum, sample
        self.batches = 0
        self.low = self.high = self.average_low = self.average_high = 0.0
        self.zeros = 0
        self.width = 0.0
        self.counts = torch.zeros(2 * BINS, dtype=torch.int64)

    def update(self, values: Tensor) -> None:
        """Take in one batch, of any shape.

        Raises:
            ConfigError: a value is not finite.
        """
        values = values.detach()
        if values.numel() == 0:
            return
        low, high = (float(end) for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ConfigError("a value is NaN or infinite")
        first = self.batches == 0
        self.low, self.high = (low, high) if first else (min(self.low, low), max(self.high, high))
        keep = 0.0 if first else self.momentum
        self.average_low = keep * self.average_low + (1 - keep) * low
        self.average_high = keep * self.average_high + (1 - keep) * high
        self.batches += 1
        if self.counting:
            self._count(values, max(-low, high))

    def centers(self) -> Tensor:
        """(2 * BINS,) float64, the middle of each bin."""
        return (torch.arange(-BINS, BINS, dtype=torch.float64) + 0.5) * self.width

    def _count(self, values: Tensor, reach: float) -> None:
        flat = _spread(values, self.sample).cpu().float()
        if reach > 0:
            self._grow(reach)
            self.zeros += _native.count_into_bins(flat.numpy(), self.width, self.counts.numpy())
        else:
            self.zeros += flat.numel()

    def _grow(self, reach: float) -> None:
        if self.width == 0:
            mantissa, exponent = math.frexp(reach)  # 0.5 <= mantissa < 1
            self.width = math.ldexp(0.75 if mantissa < 0.75 else 1.0, exponent) / BINS
        while reach >= self.width * BINS:
            pairs = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
            self.width *= 2


def _spread(values: Tensor, sample: int | None) -> Tensor:
    """At most so many values, at a distance that has no common factor with their number."""
    flat = values.reshape(-1)
    if sample is None or flat.numel() <= sample:
        return flat
    step = -(-flat.numel() // sample)
    while math.gcd(step, flat.numel()) > 1:  # so that no channel is always left out
        step += 1
    return flat[::step]

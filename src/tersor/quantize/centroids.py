"""Weight sharing: the kept weights of a tensor take a few values, found by k-means.

Zero is never one of them, so what is pruned and what is kept stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.seeding import generator
from tersor.quantize.kmeans import INITS, kmeans_1d
from tersor.quantize.quantizer import rounded

MAX_BITS = 12
"""Of a code of `KMeans`."""


@dataclass(frozen=True)
class KMeans:
    """At most 2**bits values, where the sum of squared errors is small.

    Args:
        bits: of a code, 1 to 12.
        init: as in `kmeans_1d`: "linear", "density", "random" or "exact".
        seed: of "random".

    Raises:
        ConfigError: a setting is out of range; no weight is kept, or one is not finite.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, section 3.

    >>> KMeans(bits=1)(torch.tensor([[6.0, 1.0, 1.5, 0.0]]), torch.tensor([[True] * 3 + [False]]))
    tensor([[6.0000, 1.2500, 1.2500, 0.0000]])
    """

    bits: int = 4
    init: str = "linear"
    seed: int = 0
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(
                f"bits: {self.bits!r}; expected a whole number from 1 to {MAX_BITS}, "
                "the width of a code"
            )
        if self.init not in INITS:
            raise ConfigError(f"k-means: init {self.init!r}; {did_you_mean(self.init, INITS)}")

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> CodebookGrid:
        values = weight.flatten() if kept is None else weight[kept]
        draw = generator(self.seed, "k-means")
        found = kmeans_1d(values, 2**self.bits, init=self.init, generator=draw)
        centroids = found.centroids.to(weight.device, weight.dtype)
        if bool((centroids == 0).any()):
            centroids = _away_from_zero(centroids, values, found.codes.to(weight.device))
        return CodebookGrid(centroids.unique())  # two may round to one number of a short dtype

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class CodebookGrid:
    """A grid of any values, the same for all entries.

    Args:
        centroids: (k,) of the weight's dtype, strictly ascending.
    """

    centroids: Tensor

    def round(self, values: Tensor) -> Tensor:
        """The nearest centroids; what lies half-way goes to the lower one."""
        codes = torch.bucketize(values.contiguous(), _half_ways(self.centroids))
        return self.centroids[codes]

    def bounds(self) -> tuple[Tensor, Tensor]:
        return self.centroids[0], self.centroids[-1]

    def columns(self, start: int, stop: int) -> CodebookGrid:
        """The grid of some columns of a weight: the same."""
        return self


def _half_ways(centroids: Tensor) -> Tensor:
    """The greatest number of the dtype that belongs to each centroid but the last."""
    low, high = centroids[:-1], centroids[1:]
    exact = (low.double() + high.double()) / 2
    middle = exact.to(centroids.dtype)
    below = torch.nextafter(middle, middle.new_full((), -torch.inf))
    middle = torch.where(middle.double() > exact, below, middle)
    return torch.where(middle >= high, low, middle)  # neighbours in float64


def _away_from_zero(centroids: Tensor, values: Tensor, codes: Tensor) -> Tensor:
    """A centroid of zero becomes the member nearest to zero, or the smallest normal number."""
    centroids = centroids.clone()
    for code in (centroids == 0).nonzero().flatten().tolist():
        members = values[codes == code]
        members = members[members != 0]
        tiny = torch.finfo(centroids.dtype).tiny
        centroids[code] = members[members.abs().argmin()] if len(members) else tiny
    return centroids

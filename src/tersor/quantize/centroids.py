"""Weight sharing: the kept weights of a tensor take a few values, found by k-means.

Zero is never one of them, so what is pruned and what is kept stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.seeding import generator
from tersor.quantize.kmeans import INITS, kmeans_1d
from tersor.quantize.quantizer import rounded

MAX_BITS = 12
"""Of a code of `KMeans`."""


@dataclass(frozen=True)
class KMeans:
    """At most 2**bits values, where the sum of squared errors is small.

    sum over kept entries of importance * (weight - centroid)**2

    Args:
        bits: of a code, 1 to 12.
        init: as in `kmeans_1d`: "linear", "density", "random" or "exact".
        seed: of "random".
        granularity: what has a codebook of its own: the "tensor", each "channel" (output), or each
            so many channels in a row (a number; the last group may be smaller).

    Raises:
        ConfigError: a setting is out of range; no weight is kept, or one is not finite.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, section 3; the importance is from Choi,
    El-Khamy and Lee 2017, arXiv 1612.01543, section 3.3, where it is the Hessian's diagonal. If
    none of a group's entries has any, all of them count alike.

    >>> KMeans(bits=1)(torch.tensor([[6.0, 1.0, 1.5, 0.0]]), torch.tensor([[True] * 3 + [False]]))
    tensor([[6.0000, 1.2500, 1.2500, 0.0000]])
    """

    bits: int = 4
    init: str = "linear"
    seed: int = 0
    granularity: str | int = "tensor"
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not _whole(self.bits) or not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(
                f"bits: {self.bits!r}; expected a whole number from 1 to {MAX_BITS}, "
                "the width of a code"
            )
        if self.init not in INITS:
            raise ConfigError(f"k-means: init {self.init!r}; {did_you_mean(self.init, INITS)}")
        number = _whole(self.granularity) and int(self.granularity) >= 1
        if self.granularity not in ("tensor", "channel") and not number:
            raise ConfigError(
                f"k-means: granularity {self.granularity!r}; expected 'tensor', 'channel', "
                "or how many output channels share a codebook"
            )

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> CodebookGrid | RowCodebooks:
        if self.granularity == "tensor":
            return self._codebook(weight, kept, importance)
        rows = 1 if self.granularity == "channel" else int(self.granularity)
        count = -(-len(weight) // rows)
        groups = zip(
            weight.split(rows),
            [None] * count if kept is None else kept.split(rows),
            [None] * count if importance is None else importance.split(rows),
            strict=True,
        )
        codebooks = tuple(self._codebook(*group) for group in groups)
        return RowCodebooks(codebooks, rows, tuple(weight.shape))

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)

    def _codebook(
        self, weight: Tensor, kept: Tensor | None, importance: Tensor | None
    ) -> CodebookGrid:
        values = weight.flatten() if kept is None else weight[kept]
        if kept is not None and not len(values) and self.granularity != "tensor":
            tiny = torch.finfo(weight.dtype).tiny  # all of the group is pruned: any value will do
            return CodebookGrid(weight.new_full((1,), tiny))
        if importance is not None:
            importance = importance.flatten() if kept is None else importance[kept]
        found = kmeans_1d(
            values,
            2**self.bits,
            init=self.init,
            weights=importance,
            generator=generator(self.seed, "k-means"),
        )
        centroids = found.centroids.to(weight.device, weight.dtype)
        if bool((centroids == 0).any()):
            centroids = _away_from_zero(centroids, values, found.codes.to(weight.device))
        return CodebookGrid(centroids.unique())  # two may round to one number of a short dtype


@dataclass(frozen=True, eq=False)
class CodebookGrid:
    """A grid of any values, the same for all entries.

    Args:
        centroids: (k,) of the weight's dtype, strictly ascending.
    """

    centroids: Tensor

    def round(self, values: Tensor) -> Tensor:
        """The nearest centroids; what lies half-way goes to the lower one."""
        half_ways = _half_ways(self.centroids)
        if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
            # Several times as fast as bucketize.
            flat = values.detach().flatten().contiguous().numpy()
            codes = torch.from_numpy(_native.count_below(flat, half_ways.double().numpy()))
            return self.centroids[codes].view(values.shape)
        return self.centroids[torch.bucketize(values.contiguous(), half_ways)]

    def bounds(self) -> tuple[Tensor, Tensor]:
        return self.centroids[0], self.centroids[-1]

    def columns(self, start: int, stop: int) -> CodebookGrid:
        """The grid of some columns of a weight: the same."""
        return self


@dataclass(frozen=True, eq=False)
class RowCodebooks:
    """A codebook for each so many rows in turn.

    Args:
        codebooks: those of the groups of rows, from the first on.
        rows: of a group; the last may have less.
        shape: of the weight.
    """

    codebooks: tuple[CodebookGrid, ...]
    rows: int
    shape: tuple[int, ...]

    def round(self, values: Tensor) -> Tensor:
        """The nearest centroids of each group."""
        groups = zip(self.codebooks, values.split(self.rows), strict=True)
        return torch.cat([codebook.round(group) for codebook, group in groups])

    def bounds(self) -> tuple[Tensor, Tensor]:
        ends = [
            torch.stack(side) for side in zip(*(c.bounds() for c in self.codebooks), strict=True)
        ]
        ones = (1,) * (len(self.shape) - 1)
        low, high = (
            side.repeat_interleave(self.rows)[: self.shape[0]].view(-1, *ones) for side in ends
        )
        return low, high

    def columns(self, start: int, stop: int) -> RowCodebooks:
        """The grid of some columns of a weight, flattened to (out, in * kernel)."""
        return RowCodebooks(self.codebooks, self.rows, (self.shape[0], stop - start))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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

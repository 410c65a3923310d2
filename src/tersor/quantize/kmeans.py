"""k-means of numbers on a line: the best k values to stand for many.

On a line the clusters are intervals, so a Lloyd step is a search in the midpoints, and the optimum
is found by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError, did_you_mean

Start = Callable[[Tensor, int, torch.Generator | None], Tensor]
"""Sorted float64 values, k and a generator to k first centroids, ascending."""

MAX_LLOYD_STEPS = 300


@dataclass(frozen=True)
class Clusters:
    """What k-means found.

    Args:
        centroids: (k,) float64, strictly ascending; fewer than asked if there are fewer values.
        codes: (n,) int64, the centroid of each value.
        wcss: sum of the squared distances of the values to their centroids.
    """

    centroids: Tensor
    codes: Tensor
    wcss: float


def linear(values: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """k points equally spaced from the smallest to the largest value.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, section 3.2: large weights matter most.
    """
    return torch.linspace(float(values[0]), float(values[-1]), k, dtype=torch.float64)


def density(values: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """The quantiles (i + 1/2) / k, so each point stands for as many values.

    Source: as `linear`; the half step is ours, the paper does not say where its levels begin.
    """
    levels = (torch.arange(k, dtype=torch.float64) + 0.5) / k
    return values[(levels * len(values)).long().clamp(max=len(values) - 1)]


def random(values: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """k of the distinct values (Forgy).

    Source: as `linear`.
    """
    distinct: Tensor = torch.unique_consecutive(values)
    return distinct[torch.randperm(len(distinct), generator=generator)[:k]].sort().values


STARTS: dict[str, Start] = {f.__name__: f for f in (linear, density, random)}

INITS = (*STARTS, "exact")
"""What `kmeans_1d` takes as `init`."""


def kmeans_1d(
    values: Tensor, k: int, *, init: str = "linear", generator: torch.Generator | None = None
) -> Clusters:
    """At most k centroids that stand for some numbers with a small sum of squared distances.

    Args:
        values: (n,) finite numbers; the work is done in float64.
        k: centroids, at least 1.
        init: "linear", "density" or "random", each followed by Lloyd's steps until nothing
            changes; or "exact", the global optimum by dynamic programming in C++.
        generator: draws the points of "random".

    Raises:
        ConfigError: no values, a value is not finite, k is below 1, `init` is unknown.

    Source: Lloyd 1982, IEEE Trans. Inf. Theory 28(2); for the optimum Wang and Song 2011,
    The R Journal 3(2), with a divide-and-conquer search instead of their quadratic one.

    >>> found = kmeans_1d(torch.tensor([1.0, 2.0, 10.0, 11.0, 12.0]), 2, init="exact")
    >>> found.centroids.tolist(), found.codes.tolist(), found.wcss
    ([1.5, 11.0], [0, 0, 1, 1, 1], 2.5)
    """
    if k < 1:
        raise ConfigError(f"k-means: k is {k}; expected at least 1 centroid")
    if init not in INITS:
        raise ConfigError(f"k-means: init {init!r}; {did_you_mean(init, INITS)}")
    if values.numel() == 0:
        raise ConfigError("k-means: no values to cluster")
    if not bool(torch.isfinite(values).all()):
        raise ConfigError("k-means: a value is NaN or infinite")
    exact = values.detach().flatten().cpu().double()
    if init == "exact":
        centroids = _optimal(exact, k)
    else:
        ordered = exact.sort().values
        distinct: Tensor = ordered.unique_consecutive()
        few = len(distinct) <= k  # one centroid each, which no start but "random" finds surely
        centroids = distinct if few else _lloyd(ordered, STARTS[init](ordered, k, generator))
    codes = _assign(exact, centroids)
    return Clusters(centroids, codes, float((exact - centroids[codes]).square().sum()))


def _optimal(values: Tensor, k: int) -> Tensor:
    distinct, multiplicities = values.unique(return_counts=True)
    centroids, _, _ = _native.kmeans_1d(distinct.numpy(), multiplicities.double().numpy(), k)
    return torch.from_numpy(centroids)


def _lloyd(values: Tensor, centroids: Tensor) -> Tensor:
    """Steps of assignment and mean until nothing moves; an empty cluster keeps its centroid."""
    for _ in range(MAX_LLOYD_STEPS):
        moved = lloyd_step(values, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    # Of centroids that are equal or stand for nothing, one copy or none is kept.
    return centroids[_assign(values, centroids).unique()]


def lloyd_step(values: Tensor, centroids: Tensor) -> Tensor:
    """One step: each centroid becomes the mean of the values nearest to it."""
    codes = _assign(values, centroids)
    sums = torch.zeros_like(centroids).index_add_(0, codes, values)
    counts = torch.bincount(codes, minlength=len(centroids))
    return torch.where(counts > 0, sums / counts.clamp(min=1), centroids)


def _assign(values: Tensor, centroids: Tensor) -> Tensor:
    """The nearest of ascending centroids; half-way values go to the lower one."""
    return torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)

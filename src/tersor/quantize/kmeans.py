"""k-means of numbers on a line: the best k values to stand for many.

On a line the clusters are intervals, so after one sort a Lloyd step takes a search for each
centroid, and the optimum is a cheapest cut, which C++ finds (native/kmeans.hpp says how).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError, did_you_mean

Start = Callable[[Tensor, int, torch.Generator | None], Tensor]
"""Sorted values, k and a generator to k first centroids, float64, ascending."""

MAX_LLOYD_STEPS = 300

BINS = 1 << 20
"""With no more distinct values than these, "exact" is the optimum."""


@dataclass(frozen=True)
class Clusters:
    """What k-means found.

    Args:
        centroids: (k,) float64, strictly ascending; fewer than asked if there are fewer values.
        codes: (n,) int32, the centroid of each value.
        wcss: sum of the squared distances of the values to their centroids, times their weights.
        least: no centroids have a smaller wcss; with init "exact" it is the wcss, or nearly so, and
            with others 0, as nothing is known.
    """

    centroids: Tensor
    codes: Tensor
    wcss: float
    least: float = 0.0


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
    return values[(levels * len(values)).long().clamp(max=len(values) - 1)].double()


def random(values: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """k of the distinct values (Forgy).

    Source: as `linear`.
    """
    distinct: Tensor = torch.unique_consecutive(values)
    return distinct[torch.randperm(len(distinct), generator=generator)[:k]].double().sort().values


STARTS: dict[str, Start] = {f.__name__: f for f in (linear, density, random)}

INITS = (*STARTS, "exact")
"""What `kmeans_1d` takes as `init`."""


def kmeans_1d(
    values: Tensor,
    k: int,
    *,
    init: str = "linear",
    weights: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Clusters:
    """At most k centroids that stand for some numbers with a small sum of squared distances.

    Args:
        values: (n,) finite numbers; sums are taken in float64 or better.
        k: centroids, at least 1.
        init: "linear", "density" or "random", each followed by Lloyd's steps until nothing
            changes; or "exact": the optimum if there are at most 2**20 distinct values, else at
            most `wcss - least` from it (a millionth of it, for 256 centroids and normal numbers).
        weights: (n,) how much the squared distance of each value counts, not negative. The starts
            do not look at them. None, or all zero: all count alike.
        generator: draws the points of "random".

    Raises:
        ConfigError: no values, a value is not finite, k is below 1, `init` is unknown, the weights
            do not fit.

    Source: Lloyd 1982, IEEE Trans. Inf. Theory 28(2); for the optimum Gronlund et al. 2017,
    arXiv 1701.07204, on bins and with queues instead of their linear-time search. With weights:
    Choi, El-Khamy and Lee 2017, arXiv 1612.01543, section 3 (theirs are a Hessian's diagonal).

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
    short = values.dtype in (torch.float32, torch.float16, torch.bfloat16)
    flat = (
        values.detach().flatten().cpu().to(torch.float32 if short else torch.float64).contiguous()
    )
    ordered, counts = _sorted(flat.numpy(), _positive(weights, values))
    few = int((ordered[1:] != ordered[:-1]).sum()) < k  # each is a centroid, from any start
    if few or init == "exact":
        found, _, wcss, least = _native.kmeans_1d(ordered, counts, k, BINS)
    else:
        start = STARTS[init](torch.from_numpy(ordered), k, generator).numpy()
        found, _, wcss, least = _native.lloyd(ordered, counts, start, MAX_LLOYD_STEPS)
    codes = _native.count_below(flat.numpy(), middles(found))
    return Clusters(torch.from_numpy(found), torch.from_numpy(codes), wcss, least)


def middles(centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-way between ascending centroids: up to there the lower one is nearest."""
    low, high = centroids[:-1], centroids[1:]
    with np.errstate(over="ignore"):
        whole = (low + high) / 2
    return np.where(np.isfinite(whole), whole, low / 2 + high / 2)


def _sorted(
    values: NDArray[np.floating], weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Values in order and their weights (none: empty); those of weight 0 are left out."""
    if weights is None:
        return np.sort(values), np.empty(0)
    order = np.argsort(values)
    order = order[weights[order] > 0]
    return values[order], weights[order]


def _positive(weights: Tensor | None, values: Tensor) -> NDArray[np.float64] | None:
    """Checked weights; None if all count alike."""
    if weights is None:
        return None
    if weights.shape != values.shape:
        raise ConfigError(
            f"k-means: weights of shape {tuple(weights.shape)} for values of {tuple(values.shape)}"
        )
    flat = weights.detach().flatten().cpu().double()
    if not bool((torch.isfinite(flat) & (flat >= 0)).all()):
        raise ConfigError("k-means: a weight is negative, NaN or infinite; expected 0 or more")
    return flat.numpy() if bool((flat > 0).any()) else None

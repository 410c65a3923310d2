"""k-means of vectors: k of them that stand for many, where errors may count unequally.

What it costs that c stands for p is a quadratic form, (p - c)^T M (p - c): M is the identity, a
diagonal of the vector's own, or a matrix that some vectors share. As features of p times features
of c it takes one matrix product for all pairs, and the best c of a cluster follows from the sum of
its features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.errors import ConfigError

MAX_STEPS = 100

TOLERANCE = 1e-4
"""A Lloyd step that gains less, relative to the cost, is the last one."""

_PAIRS_AT_ONCE = 1 << 20
_EXACT_PAIRS = 1 << 24  # of vectors and centroids, up to which all is computed in float64
_RIDGE = 1e-9  # holds a coordinate that no member has a say in where it was


@dataclass(frozen=True, eq=False)
class Points:
    """Vectors p, and how much an error e = p - c of each counts: sum of s_i M_ij s_j e_i e_j.

    Args:
        vectors: (n, d), finite.
        weights: (n, d), s**2 of each coordinate of each vector, not negative; None: all 1.
        moments: (m, d, d), the matrices M, symmetric and positive; None: the identity.
        which: (n,) which of them is that of a vector.
    """

    vectors: Tensor
    weights: Tensor | None = None
    moments: Tensor | None = None
    which: Tensor | None = None

    def chunks(self, k: int) -> Iterator[slice]:
        """The vectors, some at a time, for tables of k numbers for each."""
        size = max(_PAIRS_AT_ONCE // max(k, 1), 64)
        for start in range(0, len(self.vectors), size):
            yield slice(start, start + size)

    def features(self, rows: slice) -> Tensor:
        """[M, M p] of some vectors, without what M has of zeros and repeated ones: (r, f)."""
        vectors = self.vectors[rows]
        weights = None if self.weights is None else self.weights[rows]
        if self.moments is not None and self.which is not None:
            matrices = self.moments[self.which[rows]]
            if weights is not None:
                roots = weights.sqrt()
                matrices = roots[:, :, None] * matrices * roots[:, None, :]
            pulls = (matrices @ vectors[:, :, None])[:, :, 0]
            return torch.cat([matrices.flatten(1), pulls], 1)
        if weights is not None:
            return torch.cat([weights, weights * vectors], 1)
        return torch.cat([vectors.new_ones(len(vectors), 1), vectors], 1)

    def lifted(self, centroids: Tensor) -> Tensor:
        """What the features are multiplied by: (k, f)."""
        if self.moments is not None:
            squares = (centroids[:, :, None] * centroids[:, None, :]).flatten(1)
        elif self.weights is not None:
            squares = centroids.square()
        else:
            squares = centroids.square().sum(1, keepdim=True)
        return torch.cat([squares, -2 * centroids], 1)

    def best(self, sums: Tensor, before: Tensor) -> Tensor:
        """The cheapest centroids for sums of features, (k, f); as before where none has a say."""
        size = before.shape[1]
        pulls = sums[:, -size:]
        if self.moments is None:
            mass = sums[:, :-size]
            return torch.where(mass > 0, pulls / mass.where(mass > 0, 1), before.double())
        matrices = sums[:, :-size].view(-1, size, size)
        ridge = _RIDGE * matrices.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        matrices = matrices + ridge[:, None, None] * torch.eye(size, dtype=torch.float64)
        found: Tensor = torch.linalg.solve(matrices, pulls + ridge[:, None] * before.double())
        return found


@dataclass(frozen=True, eq=False)
class VectorClusters:
    """What k-means of vectors found.

    Args:
        centroids: (k, d); fewer than asked if there are fewer distinct vectors.
        codes: (n,) the centroid of each vector.
        cost: the sum of what it costs that the centroids stand for the vectors.
    """

    centroids: Tensor
    codes: Tensor
    cost: float


def kmeans_vectors(
    points: Points,
    k: int,
    *,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    steps: int = MAX_STEPS,
) -> VectorClusters:
    """At most k centroids that stand for some vectors at a small cost.

    k-means++ and then Lloyd's steps until one gains less than a ten-thousandth. A cluster that
    loses all its vectors moves to one of those that cost most. With no more than k distinct
    vectors each is a centroid.

    Args:
        points: the vectors; with moments a start is needed.
        k: centroids, at least 1.
        start: (k, d) first centroids, instead of those of k-means++.
        generator: draws the vectors of k-means++.
        steps: of Lloyd at most.

    Raises:
        ConfigError: no vectors, one is not finite, or k is below 1.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++, one trial for each centroid). A
    matrix for the errors: Stock et al. 2020, arXiv 1907.05686, section 3.2; their M is the same for
    all vectors.

    >>> plane = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
    >>> found = kmeans_vectors(Points(plane), 2, generator=torch.Generator().manual_seed(0))
    >>> sorted(found.centroids.tolist()), found.cost
    ([[0.0, 0.5], [9.0, 8.5]], 1.0)
    """
    if k < 1:
        raise ConfigError(f"k-means: k is {k}; expected at least 1 centroid")
    if not len(points.vectors):
        raise ConfigError("k-means: no vectors to cluster")
    if not bool(torch.isfinite(points.vectors).all()):
        raise ConfigError("k-means: a value is NaN or infinite")
    points, scale = _scaled(points, k)
    if start is None:
        centroids, codes, left = _plus_plus(points, k, generator)
        if left == 0:
            return VectorClusters(centroids * scale, codes, 0.0)
    else:
        centroids = start.to(points.vectors) / scale
    before = torch.inf
    for step in range(steps + 1):
        codes, costs, sums = _assigned(points, centroids)
        cost = float(costs.sum(dtype=torch.float64))
        if step == steps or before - cost <= TOLERANCE * cost:
            break
        before = cost
        centroids = points.best(sums, centroids).to(centroids.dtype)
        empty = (torch.bincount(codes, minlength=len(centroids)) == 0).nonzero().flatten()
        dear = costs.topk(min(len(empty), len(costs))).indices
        centroids[empty[: len(dear)]] = points.vectors[dear]
    return VectorClusters(centroids * scale, codes, cost * scale**2)


def _scaled(points: Points, k: int) -> tuple[Points, float]:
    """The points divided by a power of two, so that no square overflows; and that power."""
    exact = len(points.vectors) * k <= _EXACT_PAIRS or points.vectors.dtype == torch.float64
    dtype = torch.float64 if exact else torch.float32
    vectors = points.vectors.detach().cpu().to(dtype)
    scale = 2.0 ** int(torch.frexp(vectors.abs().max()).exponent)
    weights, moments = (
        None if part is None else part.detach().cpu().to(dtype)
        for part in (points.weights, points.moments)
    )
    return Points(vectors / scale, weights, moments, points.which), scale


def _plus_plus(
    points: Points, k: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, float]:
    """Vectors that are drawn by what they cost so far; codes by them, and what is left to pay."""
    vectors, weights = points.vectors, points.weights
    chances = torch.ones(len(vectors)) if weights is None else weights.sum(1)
    nearest = torch.full((len(vectors),), torch.inf, dtype=vectors.dtype)
    codes = torch.zeros(len(vectors), dtype=torch.long)
    picks: list[int] = []
    while len(picks) < k:
        summed = chances.cumsum(0, dtype=torch.float64)
        if picks and summed[-1] <= 0:
            break
        drawn = torch.rand((), dtype=torch.float64, generator=generator) * summed[-1]
        pick = int(torch.searchsorted(summed, drawn, right=True).clamp(max=len(vectors) - 1))
        squares = (vectors - vectors[pick]).square_()
        costs = squares.sum(1) if weights is None else squares.mul_(weights).sum(1)
        closer = costs < nearest
        codes[closer] = len(picks)
        nearest = chances = torch.where(closer, costs, nearest)
        picks.append(pick)
    return vectors[picks], codes, float(nearest.sum())


def _assigned(points: Points, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cheapest centroid of each vector, its cost, and the sums of features of each cluster."""
    lifted = points.lifted(centroids)
    size = centroids.shape[1]
    codes = torch.empty(len(points.vectors), dtype=torch.long)
    costs = points.vectors.new_empty(len(points.vectors))
    sums = torch.zeros(lifted.shape, dtype=torch.float64)
    for rows in points.chunks(len(centroids)):
        features = points.features(rows)
        least, codes[rows] = (features @ lifted.t()).min(1)
        constant = (features[:, -size:] * points.vectors[rows]).sum(1)
        costs[rows] = (least + constant).clamp(min=0)
        sums.index_add_(0, codes[rows], features.double())
    return codes, costs, sums

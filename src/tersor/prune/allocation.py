"""How much is kept where: scores and a target become an exact number of groups per weight.

Within a weight the highest scores are kept, ties by index, so a count is all it takes. A group is
what a pattern removes together, for the pattern "element" a single weight. -inf as a score says
that a group cannot be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.prune.scoring import Lazily
from tersor.prune.selection import highest_of_all


@dataclass(frozen=True)
class Groups:
    """The groups of one weight (or of several, whose groups are kept as one).

    Args:
        scores: (n,), one a group, higher = keep.
        size: weights in each group.
        shape: of the weight.
    """

    scores: Tensor
    size: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, scores: Tensor) -> Groups:
        """Each entry of a weight's scores as a group of its own."""
        return cls(scores.reshape(-1), 1, tuple(scores.shape))

    @property
    def count(self) -> int:
        """Groups."""
        return self.scores.numel()

    @property
    def weights(self) -> int:
        """Weights of all groups together."""
        return self.count * self.size


Counts = dict[str, int]
"""How many groups are kept, by name."""

Allocation = Callable[[Mapping[str, Groups], float], Counts]


def global_(groups: Mapping[str, Groups], density: float) -> Counts:
    """Keep the highest scores of all weights together, ties in the order of the weights.

    Source: "global" of Blalock et al. 2020, arXiv 2003.03033, section 2.3.

    >>> a, b = torch.tensor([3.0, 1.0]), torch.tensor([2.0])
    >>> global_({"a": Groups.of(a), "b": Groups.of(b)}, 0.7)
    {'a': 1, 'b': 1}
    """
    scores = Lazily({name: partial(_scores, groups, name) for name in groups})
    found = {name: _sizes(groups[name]) for name in groups}
    budget = kept_count(sum(weights for _, weights in found.values()), density)
    return highest_of_all(scores, budget, {name: size for name, (size, _) in found.items()})


def uniform(groups: Mapping[str, Groups], density: float) -> Counts:
    """Keep the same share of every weight; the total is exact by largest remainders.

    >>> uniform({"a": Groups.of(torch.ones(5)), "b": Groups.of(torch.ones(5))}, 0.5)
    {'a': 3, 'b': 2}
    """
    return apportion(groups, dict.fromkeys(groups, density), density)


def er(groups: Mapping[str, Groups], density: float) -> Counts:
    """Keep, of each weight, a share that falls with its size: a sparse random graph (Erdős-Rényi).

    density(l) = min(1, epsilon * (in + out) / (in * out)), epsilon such that the total is exact

    Source: Mocanu et al. 2018, arXiv 1707.04780, eq. 3; the solution with full layers as in
    Evci et al. 2020, arXiv 1911.11134, section 3.

    >>> layers = {"a": Groups.of(torch.ones(300, 784)), "b": Groups.of(torch.ones(10, 100))}
    >>> {name: round(n / layers[name].count, 4) for name, n in er(layers, 0.02).items()}
    {'a': 0.0182, 'b': 0.435}
    """
    return _by_shape(groups, density, lambda out, inputs, kernel: out + inputs)


def erk(groups: Mapping[str, Groups], density: float) -> Counts:
    """As `er`, where the sides of a kernel count as well.

    density(l) = min(1, epsilon * (in + out + height + width) / (in * out * height * width))

    Source: Evci et al. 2020, arXiv 1911.11134, section 3.
    """
    return _by_shape(groups, density, lambda out, inputs, kernel: out + inputs + sum(kernel))


def lamp(groups: Mapping[str, Groups], density: float) -> Counts:
    """Keep globally by the layer-adaptive score; a weight never loses its largest group.

    lamp(u) = s_u**2 / sum(s_v**2 for v in the same weight with s_v >= s_u), ties by flat index

    Source: Lee, Park, Mo, Ahn and Shin 2021, arXiv 2010.07611, eq. 1, with s = |w|.

    >>> tensors = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([0.2, 0.1])}
    >>> lamp({name: Groups.of(tensor) for name, tensor in tensors.items()}, 0.5)
    {'a': 1, 'b': 1}
    """
    adapted = {}
    for name, group in groups.items():
        squares = _relative(group.scores.double().clamp(min=0)).square()
        order = squares.sort(descending=True, stable=True).indices
        # The sum over all that are at least as large, the weight itself included: 1 for the first.
        ratios = squares[order] / squares[order].cumsum(0).clamp(min=torch.finfo(torch.double).tiny)
        if ratios.numel():
            ratios[0] = 1.0
        score = torch.empty_like(squares).index_copy_(0, order, ratios)
        score[group.scores == -torch.inf] = -torch.inf
        adapted[name] = Groups(score, group.size, group.shape)
    return global_(adapted, density)


ALLOCATIONS: dict[str, Allocation] = {
    "global": global_,
    "uniform": uniform,
    "er": er,
    "erk": erk,
    "lamp": lamp,
}


def per_layer(groups: Mapping[str, Groups], densities: Mapping[str, float]) -> Counts:
    """Keep a given share of each weight: `round(density * n)` groups, halves to even."""
    return {name: kept_count(groups[name].count, d) for name, d in densities.items()}


def kept_count(total: int, density: float) -> int:
    """`round(density * total)`, once the density is found to be one.

    Raises:
        ConfigError: the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ConfigError(
            f"density: {density}; expected 0 < density <= 1, the share of weights that are kept"
        )
    return round(density * total)


def apportion(
    groups: Mapping[str, Groups], densities: Mapping[str, float], density: float
) -> Counts:
    """Counts nearest to a density for each weight whose total is that of the density of all.

    The counts are rounded down; what is left of the total goes to the largest remainders, as far
    as a whole group still fits.
    """
    budget = _budget(groups, density)
    exact = {name: densities[name] * g.count for name, g in groups.items()}
    sizes = {name: g.size for name, g in groups.items()}
    # A sum that is a hair below a whole number is that number.
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    left = budget - sum(counts[name] * sizes[name] for name in counts)
    for name in sorted(exact, key=lambda name: counts[name] - exact[name]):
        if sizes[name] <= left and counts[name] < groups[name].count:
            counts[name] += 1
            left -= sizes[name]
    return counts


def _by_shape(
    groups: Mapping[str, Groups],
    density: float,
    raw: Callable[[int, int, tuple[int, ...]], float],
) -> Counts:
    """Densities in proportion to `raw` / weights, none above 1, the total exact."""
    kept_count(0, density)
    shapes = {name: g.shape for name, g in groups.items()}
    totals = {name: float(g.weights) for name, g in groups.items()}
    shares = {}  # the weights that a layer would get at epsilon = 1
    for name, shape in shapes.items():
        out, inputs, *sides = (*shape, 1) if len(shape) == 1 else shape
        shares[name] = float(raw(out, inputs, tuple(sides))) if totals[name] else 0.0
    full: set[str] = set()
    while True:
        rest = sum(share for name, share in shares.items() if name not in full)
        budget = density * sum(totals.values()) - sum(totals[name] for name in full)
        epsilon = budget / rest if rest else 0.0
        over = {n for n in shares if n not in full and epsilon * shares[n] > totals[n]}
        if not over:
            break
        full |= over
    densities = {
        name: 1.0 if name in full or not totals[name] else epsilon * shares[name] / totals[name]
        for name in groups
    }
    return apportion(groups, densities, density)


def _budget(groups: Mapping[str, Groups], density: float) -> int:
    return kept_count(sum(g.weights for g in groups.values()), density)


def _sizes(groups: Groups) -> tuple[int, int]:
    """The weights of one group and of all; the scores are let go."""
    return groups.size, groups.weights


def _scores(groups: Mapping[str, Groups], name: str) -> Tensor:
    return groups[name].scores


def _relative(scores: Tensor) -> Tensor:
    """Scores as shares of the largest, so that no square overflows or vanishes."""
    if scores.numel() == 0:
        return scores
    largest = scores.max().clamp(min=torch.finfo(scores.dtype).tiny)
    return (scores / largest).nan_to_num(nan=1.0)  # infinite / infinite

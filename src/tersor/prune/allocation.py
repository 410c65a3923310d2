"""How much is kept where: scores and a target become an exact number of weights per tensor.

Within a tensor the highest scores are kept, ties by flat index, so a count is all it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.scoring import Scores

Counts = dict[str, int]
Allocation = Callable[[Scores, float], Counts]


def global_(scores: Scores, density: float) -> Counts:
    """Keep the highest scores of all tensors together, ties in the order of the tensors.

    Source: "global" of Blalock et al. 2020, arXiv 2003.03033, section 2.3.

    >>> global_({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 9.0])}, 0.75)
    {'a': 1, 'b': 2}
    """
    flat = torch.cat([s.flatten().double() for s in scores.values()])
    kept = _highest(flat, kept_count(flat.numel(), density))
    parts = torch.split(kept, [s.numel() for s in scores.values()])
    return {name: int(part.sum()) for name, part in zip(scores, parts, strict=True)}


def uniform(scores: Scores, density: float) -> Counts:
    """Keep the same share of every tensor; the total is exact by largest remainders.

    >>> uniform({"a": torch.ones(5), "b": torch.ones(5)}, 0.5)
    {'a': 3, 'b': 2}
    """
    total = kept_count(sum(s.numel() for s in scores.values()), density)
    exact = {name: density * s.numel() for name, s in scores.items()}
    counts = {name: int(value) for name, value in exact.items()}
    missing = total - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:missing]:
        counts[name] += 1
    return counts


def lamp(scores: Scores, density: float) -> Counts:
    """Keep globally by the layer-adaptive score; a tensor never loses its largest weight.

    lamp(u) = s_u**2 / sum(s_v**2 for v in the same tensor with s_v >= s_u), ties by flat index

    Source: Lee, Park, Mo, Ahn and Shin 2021, arXiv 2010.07611, eq. 1, with s = |w|.

    >>> lamp({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([0.2, 0.1])}, 0.5)
    {'a': 1, 'b': 1}
    """
    adapted = {}
    for name, score in scores.items():
        squares = _relative(score.flatten().double().clamp(min=0)).square()
        order = squares.sort(descending=True, stable=True).indices
        # The sum over all that are at least as large, the weight itself included: 1 for the first.
        ratios = squares[order] / squares[order].cumsum(0).clamp(min=torch.finfo(torch.double).tiny)
        if ratios.numel():
            ratios[0] = 1.0
        adapted[name] = torch.empty_like(squares).index_copy_(0, order, ratios)
        adapted[name][score.flatten() == -torch.inf] = -torch.inf  # gone already, never again
    return global_(adapted, density)


ALLOCATIONS: dict[str, Allocation] = {"global": global_, "uniform": uniform, "lamp": lamp}


def per_layer(scores: Scores, densities: Mapping[str, float]) -> Counts:
    """Keep a given share of each tensor: `round(density * n)` weights, halves to even."""
    return {name: kept_count(scores[name].numel(), d) for name, d in densities.items()}


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


def masks_for(
    scores: Scores, counts: Counts, densities: float | Mapping[str, float] | None = None
) -> MaskSet:
    """Masks that keep the `counts[name]` highest scores of each tensor, ties by flat index.

    Args:
        scores, counts: by name.
        densities: what was asked for, all together or by name; said in the error alone.

    Raises:
        ConfigError: a score is NaN, or a tensor would be left empty.
    """
    for name in counts:
        if torch.isnan(scores[name]).any():
            raise ConfigError(f"prune: the scores of {name!r} hold NaN, so they have no order")
    masks = {}
    for name, count in counts.items():
        score = scores[name]
        if count == 0 and score.numel():
            asked = densities.get(name) if isinstance(densities, Mapping) else densities
            raise ConfigError(
                f"prune: {'this density' if asked is None else f'density {asked:.6g}'} leaves "
                f"{name!r} empty (0 of {score.numel():,} weights). Raise the density, or use "
                "another allocation (lamp, per layer)"
            )
        masks[name] = _highest(score.flatten(), count).view(score.shape)
    return MaskSet(masks)


def _relative(scores: Tensor) -> Tensor:
    """Scores as shares of the largest, so that no square overflows or vanishes."""
    if scores.numel() == 0:
        return scores
    largest = scores.max().clamp(min=torch.finfo(scores.dtype).tiny)
    return (scores / largest).nan_to_num(nan=1.0)  # infinite / infinite


def _highest(flat: Tensor, count: int) -> Tensor:
    """True at the `count` highest of some numbers, ties by index; linear time."""
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    kept = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return kept

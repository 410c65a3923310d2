"""Prune once, in place: score, allocate, mask."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.prune.allocation import (
    ALLOCATIONS,
    Allocation,
    Counts,
    kept_count,
    masks_for,
    per_layer,
)
from tersor.prune.criteria import CRITERIA
from tersor.prune.scoring import Criterion, Data, Scores, as_scoring_data

Density = float | Mapping[str, float]
"""The kept share of all weights together, or one for each selector (what none names stays)."""


def prune_(
    model: nn.Module,
    density: Density,
    *,
    criterion: str | Criterion = "magnitude",
    allocation: str | Allocation = "global",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[MaskSet, Report]:
    """Set the least important weights to zero, in place, and say which are kept.

    Exactly `round(density * n)` weights stay, ties by index. The zeros stay through training
    only while the masks are attached: `with masks.attach(model, optimizer)`.

    Args:
        model: changed in place.
        density: kept / prunable weights, 0 < density <= 1; or one density for each of some
            selectors ({"fc1": 0.08, "fc2": 0.09}), and then `allocation` has no say.
        criterion: a name of `CRITERIA`, or a function `(model, data) -> {name: scores}`.
        allocation: a name of `ALLOCATIONS`, or a function `(scores, density) -> {name: count}`.
        data: batches for criteria that look at data.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        The masks and a report.

    Raises:
        ConfigError: a density is out of range, a name is unknown, a tensor would be left empty.

    >>> model = nn.Linear(10, 10)
    >>> masks, report = prune_(model, 0.2)
    >>> int((model.weight != 0).sum()), masks.density
    (20, 0.2)
    """
    weights, densities, skipped = resolve(model, density, select=select, ignore=ignore)
    scores = scores_of(criterion, model, data, weights)
    masks = masks_for(scores, counts_of(allocation, scores, densities), densities)
    masks.apply(model)
    return masks, describe(weights, masks, skipped, densities)


def resolve(
    model: nn.Module, density: Density, *, select: Selectors = None, ignore: Selectors = None
) -> tuple[list[Weight], float | dict[str, float], dict[str, str]]:
    """The weights that take part, a checked density for all or each of them, and what is skipped.

    Raises:
        ConfigError: a density is out of range, or two selectors name the same weight differently.
    """
    weights, skipped = survey(model, select=select, ignore=ignore)
    if not isinstance(density, Mapping):
        kept_count(0, density)
        return weights, density, skipped
    for value in density.values():
        kept_count(0, value)
    densities = assign(model, density, weights, what="density")
    skipped |= {w.name: "no density given" for w in weights if w.name not in densities}
    return [weight for weight in weights if weight.name in densities], densities, skipped


def scores_of(
    criterion: str | Criterion, model: nn.Module, data: Data, weights: list[Weight]
) -> Scores:
    """The scores of just these weights.

    Raises:
        ConfigError: the criterion is unknown, or does not score one of them in its shape.
    """
    scores = look_up("criterion", criterion, CRITERIA)(model, as_scoring_data(data))
    for weight in weights:
        if weight.name not in scores or scores[weight.name].shape != weight.shape:
            raise ConfigError(
                f"criterion: no scores of shape {tuple(weight.shape)} for {weight.name!r}"
            )
    return {weight.name: scores[weight.name].detach() for weight in weights}


def counts_of(
    allocation: str | Allocation, scores: Scores, densities: float | dict[str, float]
) -> Counts:
    """How many weights of each tensor are kept.

    Raises:
        ConfigError: the allocation is unknown, or gives a number that cannot be kept.
    """
    if isinstance(densities, dict):
        return per_layer(scores, densities)
    counts = look_up("allocation", allocation, ALLOCATIONS)(scores, densities)
    for name, score in scores.items():
        if not 0 <= counts.get(name, -1) <= score.numel():
            raise ConfigError(
                f"allocation: {counts.get(name)} for {name!r}; "
                f"expected a number of its weights to keep, 0 to {score.numel():,}"
            )
    return counts


def describe(
    weights: list[Weight],
    masks: MaskSet,
    skipped: Mapping[str, str],
    densities: float | dict[str, float],
) -> Report:
    """The report on some masks, asked and reached."""
    asked = "per layer" if isinstance(densities, dict) else densities
    return Report(
        "Pruning",
        {"density asked": asked, "density reached": masks.density, "kept": masks.kept},
        [
            {
                "name": weight.name,
                "kind": weight.kind,
                "shape": "x".join(map(str, weight.shape)),
                "weights": weight.parameter.numel(),
                "kept": (kept := int(masks[weight.name].sum())),
                "density": kept / max(weight.parameter.numel(), 1),
            }
            for weight in weights
        ],
        skipped,
    )

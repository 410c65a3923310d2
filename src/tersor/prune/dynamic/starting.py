"""With which masks a sparse training starts: those that are given, or random ones of a density."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, Weight, survey
from tersor.prune.allocation import Allocation
from tersor.prune.ranking import Ranking
from tersor.prune.scoring import ScoringData
from tersor.prune.transform import Density, resolve


def starting_masks(
    model: nn.Module,
    density: Density | None,
    masks: MaskSet | None,
    *,
    allocation: str | Allocation,
    seed: int,
    select: Selectors,
    ignore: Selectors,
) -> tuple[list[Weight], MaskSet, dict[str, str]]:
    """The weights that take part, their first masks, and why others are left alone.

    The model is not changed. Without `masks`, the places are random and `density` and
    `allocation` say how many there are in each layer, exactly as in `prune_`.

    Raises:
        ConfigError: neither or both of `density` and `masks` are given, a mask is of no weight of
            this model or not of its shape, or an argument is wrong as in `prune_`.
    """
    if (density is None) == (masks is None):
        raise ConfigError(
            f"density: {density}, masks: {'none' if masks is None else 'given'}; "
            "expected one of the two to start from"
        )
    if masks is None:
        units, weights, densities, skipped = resolve(model, density, select=select, ignore=ignore)
        ranking = Ranking.named(units, "random", allocation, ScoringData(seed=seed))
        return weights, ranking.masks(model, None, densities), skipped
    masks.holder(model)  # the names and shapes are checked there
    weights, skipped = survey(model, select=select, ignore=ignore)
    unknown = sorted(set(masks) - {weight.name for weight in weights})
    if unknown:
        reason = skipped.get(unknown[0], "it is another name of a tied weight")
        raise ConfigError(f"mask {unknown[0]!r}: does not take part: {reason}")
    skipped |= {weight.name: "no mask given" for weight in weights if weight.name not in masks}
    return [weight for weight in weights if weight.name in masks], MaskSet(masks), skipped


def describe(
    title: str,
    weights: list[Weight],
    masks: MaskSet,
    skipped: Mapping[str, str],
    summary: Mapping[str, Value],
) -> Report:
    """The report of a method on the masks as they are."""
    summary = {"density": masks.density, "kept": masks.kept, **summary}
    return Report(title, summary, masks.rows(weights), skipped)

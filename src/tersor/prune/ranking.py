"""One pruning: the scores, the pattern's groups, how many are kept where, and so the masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.tables import look_up
from tersor.prune.allocation import ALLOCATIONS, Allocation, Counts, Groups, per_layer
from tersor.prune.criteria import CRITERIA
from tersor.prune.patterns import Unit
from tersor.prune.scoring import Criterion, Lazily, Scores, ScoringData
from tersor.prune.selection import highest, live

_SMALL = 1 << 22  # weights whose scores may stand in memory together

Densities = float | dict[str, float]
"""A density for all weights together, or one for each by name."""


@dataclass(frozen=True)
class Ranking:
    """How weights are ranked: what is scored, together with what, and shared out how.

    Args:
        units: what is ranked; see `patterns`.
        criterion, allocation: a key of `CRITERIA` and of `ALLOCATIONS`, or a function.
        data: for the criterion.
    """

    units: list[Unit]
    criterion: Criterion
    allocation: Allocation
    data: ScoringData

    @classmethod
    def named(
        cls,
        units: list[Unit],
        criterion: str | Criterion,
        allocation: str | Allocation,
        data: ScoringData,
    ) -> Ranking:
        """A ranking whose criterion and allocation may be named.

        Raises:
            ConfigError: there is none of this name.
        """
        return cls(
            units,
            look_up("criterion", criterion, CRITERIA),
            look_up("allocation", allocation, ALLOCATIONS),
            data,
        )

    def masks(self, model: nn.Module, before: MaskSet | None, densities: Densities) -> MaskSet:
        """The masks at these densities; what is not kept `before` is not kept now.

        Raises:
            ConfigError: the criterion does not score a weight in its shape, a score is NaN, the
                allocation gives what cannot be kept, or a weight would be left empty.
        """
        scores = self._scores(model)
        makers = {unit.name: partial(_groups, unit, scores, before) for unit in self.units}
        groups: Mapping[str, Groups] = Lazily(makers)
        if sum(unit.count * unit.size for unit in self.units) <= _SMALL:
            groups = dict(groups)  # made once, as they are looked at several times
        found = {name: _live(name, groups[name].scores) for name in groups}
        alive = {name: count for name, (count, _) in found.items()}
        # Made before the scores come and go again: what is made beside one and stays, be it the
        # few bytes of a tensor's head, leaves a place in which glibc fits no other score.
        kept = {
            unit.name: torch.empty(unit.count, dtype=torch.bool, device=found[unit.name][1])
            for unit in self.units
        }
        counts = _within(self._counts(groups, densities), alive, groups)
        for unit in self.units:
            count = counts[unit.name]
            if count == 0 and unit.count:
                raise ConfigError(_empty(unit, densities))
            kept[unit.name].copy_(highest(groups[unit.name].scores, count))
        masks = {}
        for unit in self.units:
            for name, mask in unit.spread(kept.pop(unit.name)).items():
                masks[name] = mask if before is None else mask & before[name].to(mask.device)
        return MaskSet(masks)

    def _scores(self, model: nn.Module) -> Scores:
        scores = self.criterion(model, self.data)
        for unit in self.units:
            for name, part in unit.parts.items():
                if name not in scores or scores[name].shape != part.shape:
                    raise ConfigError(f"criterion: no scores of shape {part.shape} for {name!r}")
        return scores

    def _counts(self, groups: Mapping[str, Groups], densities: Densities) -> Counts:
        if isinstance(densities, dict):
            return per_layer(groups, {unit.name: _agreed(unit, densities) for unit in self.units})
        counts = self.allocation(groups, densities)
        for unit in self.units:
            if not 0 <= counts.get(unit.name, -1) <= unit.count:
                raise ConfigError(
                    f"allocation: {counts.get(unit.name)} for {unit.name!r}; "
                    f"expected a number of its groups to keep, 0 to {unit.count:,}"
                )
        return counts


def _groups(unit: Unit, scores: Scores, before: MaskSet | None) -> Groups:
    return Groups(unit.gather(scores, before).detach(), unit.size, unit.shape)


def _live(name: str, scores: Tensor) -> tuple[int, torch.device]:
    """How many can be kept, and where the scores are."""
    if scores.numel() and scores.max().isnan():  # a NaN is the maximum of all that have one
        raise ConfigError(f"prune: the scores of {name!r} hold NaN, so they have no order")
    return live(scores), scores.device


def _within(counts: Counts, live: Counts, groups: Mapping[str, Groups]) -> Counts:
    """The same total, as far as there is as much, but nowhere more than is live there."""
    capped = {name: min(count, live[name]) for name, count in counts.items()}
    sizes = {name: groups[name].size for name in counts if capped[name] != counts[name]}
    missing = sum((counts[name] - capped[name]) * size for name, size in sizes.items())
    for name in capped if missing else ():
        size = groups[name].size
        extra = min(missing // size, live[name] - capped[name])
        capped[name] += extra
        missing -= extra * size
    return capped


def _agreed(unit: Unit, densities: dict[str, float]) -> float:
    """The density of a unit; of several weights all must have the same."""
    found = {densities[name] for name in unit.parts if name in densities}
    if len(found) != 1:
        raise ConfigError(
            f"density: {unit.name!r} is pruned as one, but its weights have "
            f"{', '.join(map(str, sorted(found)))}"
        )
    return found.pop()


def _empty(unit: Unit, densities: Densities) -> str:
    asked = _agreed(unit, densities) if isinstance(densities, dict) else densities
    things = "weights" if unit.size == 1 else f"groups of {unit.size:,} weights"
    return (
        f"prune: density {asked:.6g} leaves {unit.name!r} empty (0 of {unit.count:,} {things}). "
        "Raise the density, or use another allocation (lamp, per layer)"
    )

"""How many weights are left after so many rounds, and which: the ladder of densities.

Every round removes the same fraction of what is left, so after r rounds a tensor of n weights has

    kept = max(1, round(n * (1 - drop_fraction)**r))

weights. The count follows from n and r alone, so no rounding adds up over the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.weights import Weight, assign
from tersor.prune.lottery.settings import TicketSettings
from tersor.prune.scoring import Scores
from tersor.prune.selection import highest, highest_of_all


def kept_after(rounds: int, total: int, drop_fraction: float) -> int:
    """Weights that are left of `total` after so many rounds, at least one.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, section 2. The paper prunes "p^(1/n) %" in
    each of n rounds; what is meant is that p^(1/n) of the weights are kept.

    >>> [kept_after(r, 1000, 0.2) for r in range(4)]
    [1000, 800, 640, 512]
    """
    return max(1, round(total * (1 - drop_fraction) ** rounds))


@dataclass(frozen=True)
class Ladder:
    """The fraction that each tensor loses in a round, alone or together with others.

    Args:
        sizes: name of each weight to how many numbers it has.
        fractions: name to the fraction of those that are pruned alone.
        pooled: names of those that are pruned together, by the highest scores of all.
        pool_fraction: the fraction that the pool loses in a round.

    >>> lenet = Ladder({"fc1": 235200, "fc2": 30000, "fc3": 1000},
    ...     {"fc1": 0.2, "fc2": 0.2, "fc3": 0.1})
    >>> [round(100 * lenet.density(r), 1) for r in (3, 7, 9, 15, 16)]
    [51.3, 21.1, 13.5, 3.6, 2.9]
    """

    sizes: Mapping[str, int]
    fractions: Mapping[str, float]
    pooled: tuple[str, ...] = ()
    pool_fraction: float = 0.0

    @classmethod
    def of(cls, model: nn.Module, weights: list[Weight], settings: TicketSettings) -> Ladder:
        """The ladder that the settings ask for; the last of the weights is the output layer's.

        Raises:
            ConfigError: a selector of a layer's own fraction matches nothing.
        """
        sizes = {weight.name: weight.parameter.numel() for weight in weights}
        own: dict[str, float] = {}
        if settings.output_drop_fraction is not None:
            own[weights[-1].name] = settings.output_drop_fraction
        elif settings.allocation == "per-layer":
            own[weights[-1].name] = settings.drop_fraction / 2
        if settings.layer_drop_fractions:
            what = "layer_drop_fractions"
            own |= assign(model, settings.layer_drop_fractions, weights, what=what)
        if settings.allocation == "per-layer":
            return cls(sizes, dict.fromkeys(sizes, settings.drop_fraction) | own)
        pooled = tuple(name for name in sizes if name not in own)
        return cls(sizes, own, pooled, settings.drop_fraction)

    def density(self, level: int) -> float:
        """Kept / all weights after so many rounds."""
        return self.kept(level) / sum(self.sizes.values())

    def kept(self, level: int) -> int:
        """How many weights are left after so many rounds."""
        return sum(self._alone(level).values()) + self._together(level)

    def masks(self, level: int, scores: Scores, previous: MaskSet) -> MaskSet:
        """Masks of a level, within those of an earlier one: the highest scores, ties by index.

        Raises:
            ConfigError: a score is NaN, or a tensor would be left empty.
        """
        alive = {}
        for name in self.sizes:
            score = scores[name].detach()
            if torch.isnan(score).any():
                raise ConfigError(f"level {level}: the scores of {name!r} hold NaN")
            alive[name] = score.masked_fill(~previous[name].to(score.device), -torch.inf)
        counts = self._alone(level)
        if self.pooled:
            pool = {name: alive[name] for name in self.pooled}
            counts |= highest_of_all(pool, self._together(level))
        masks = {}
        for name, score in alive.items():
            if counts[name] == 0:
                raise ConfigError(
                    f"level {level}: {name!r} is left empty (0 of {self.sizes[name]:,} weights). "
                    "Use fewer rounds, allocation per-layer, or give it a fraction of its own"
                )
            masks[name] = highest(score, counts[name])
        return MaskSet(masks)

    def _alone(self, level: int) -> dict[str, int]:
        return {n: kept_after(level, self.sizes[n], f) for n, f in self.fractions.items()}

    def _together(self, level: int) -> int:
        total = sum(self.sizes[name] for name in self.pooled)
        return kept_after(level, total, self.pool_fraction) if self.pooled else 0

"""Densities of layers as the actions of a search, within a budget that no action can break."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation, Counts, kept_count
from tersor.prune.patterns import Pattern
from tersor.prune.scoring import Criterion, Data
from tersor.prune.search.fixed import fixed
from tersor.prune.sensitivity import Evaluate, masks_of, pruned, scored


class DensityEnvironment:
    """A network whose layers are pruned one after the other to the density that an action says.

    Action t is clipped so that the budget can still be met, and used up, by the layers after it.
    So every sequence of actions keeps the same total. What rounding leaves goes on to the next
    layer. No network is trained; the reward comes after the last layer.

    Args:
        model: as it was after every call, bit by bit.
        evaluate: the error or the loss of a model: lower = better.
        density: of all layers together: the budget.
        low: no layer is left with less than this share (AMC: 0.2).
        criterion, pattern, data, select, ignore: as in `prune_`; scores are made once.

    Raises:
        ConfigError: the budget is below what `low` leaves, or a name is unknown.

    Source: He et al. 2018, arXiv 1802.03494, algorithm 1 and section 3.1 (resource-constrained).
    Their agent is a DDPG actor with a state for each layer; here any search proposes all actions
    at once, so there are no states. The budget is weights, not multiply-accumulates.
    """

    def __init__(
        self,
        model: nn.Module,
        evaluate: Evaluate,
        density: float,
        *,
        low: float = 0.2,
        criterion: str | Criterion = "magnitude",
        pattern: str | Pattern = "element",
        data: Data = None,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        units, self._scores, _ = scored(model, criterion, pattern, data, select, ignore)
        self._model, self._evaluate = model, evaluate
        self._units = [unit for unit in units if unit.count]
        self._floors = [max(1, math.ceil(low * unit.count)) for unit in self._units]
        self._budget = kept_count(sum(u.count * u.size for u in self._units), density)
        least = sum(f * u.size for f, u in zip(self._floors, self._units, strict=True))
        if least > self._budget:
            raise ConfigError(
                f"DensityEnvironment: density {density:g} keeps {self._budget:,} weights, but "
                f"low={low:g} keeps {least:,} at least; lower it"
            )

    @property
    def length(self) -> int:
        """Layers: so many actions are asked for."""
        return len(self._units)

    def counts(self, actions: Tensor) -> Counts:
        """The groups that are kept in each layer, from a density in (0, 1] for each.

        Raises:
            ConfigError: there are not as many actions as layers.
        """
        if actions.shape != (self.length,):
            raise ConfigError(
                f"DensityEnvironment: actions of shape {tuple(actions.shape)}; "
                f"expected one for each of {self.length} layers"
            )
        counts: Counts = {}
        rest, carried = self._budget, 0.0
        for place, (unit, floor) in enumerate(zip(self._units, self._floors, strict=True)):
            after = range(place + 1, self.length)
            needed = sum(self._floors[i] * self._units[i].size for i in after)
            possible = sum(self._units[i].count * self._units[i].size for i in after)
            most = min(unit.count, (rest - needed) // unit.size)
            fewest = min(most, max(floor, math.ceil((rest - possible) / unit.size)))
            wanted = float(actions[place]) * unit.count + carried / unit.size
            kept = min(max(round(wanted), fewest), most)
            carried = (wanted - kept) * unit.size if kept == round(wanted) else 0.0
            counts[unit.name] = kept
            rest -= kept * unit.size
        return counts

    def fitness(self, actions: Tensor) -> float:
        """The reward: `-evaluate(pruned model)`."""
        with pruned(self._model, masks_of(self._units, self._scores, self.counts(actions))):
            return -float(self._evaluate(self._model))

    def allocation(self, actions: Tensor) -> Allocation:
        """What these actions come to, for `prune_` at the density of the environment."""
        return fixed(self.counts(actions))

"""Population-based incremental learning: the chance of each bit moves towards the fittest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.prune.search.loop import Memory


@dataclass(frozen=True)
class Pbil:
    """Candidates are drawn bit by bit, and their chances learn from those that survive.

    p_i <- (1 - rate) * p_i + rate * mean of bit i over the survivors,   p_i = 1/2 at first

    Args:
        length: bits.
        population: candidates a round.
        rate: 0 < rate <= 1; at 1 it is the univariate marginal distribution algorithm.
        survivors: the share of a round that is learned from, at least one candidate.
        margin: chances stay within [margin, 1 - margin], so that no bit is decided for ever.

    Raises:
        ConfigError: a number is out of range.

    Source: Baluja 1994, Population-based incremental learning; Cantu-Paz 2003, Pruning neural
    networks with distribution estimation algorithms. The margin stands in for their mutation.

    >>> from tersor.prune.search import Search
    >>> search = Search(Pbil(8), lambda bits: float(bits[:4].sum() - bits[4:].sum()))
    >>> search.run(40)
    >>> search.best.int().tolist()
    [1, 1, 1, 1, 0, 0, 0, 0]
    """

    length: int
    population: int = 30
    rate: float = 0.1
    survivors: float = 0.2
    margin: float = 0.02

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and 0 < self.survivors <= 1 and 0 <= self.margin < 0.5):
            raise ConfigError(
                f"Pbil: rate {self.rate}, survivors {self.survivors}, margin {self.margin}; "
                "expected 0 < rate <= 1, 0 < survivors <= 1, 0 <= margin < 0.5"
            )

    def propose(self, memory: Memory, random: torch.Generator) -> Tensor:
        """Candidates by the chances of now, (population, length), bool."""
        shape = (self.population, self.length)
        return torch.rand(shape, generator=random, dtype=torch.float64) < self._chances(memory)

    def update(self, memory: Memory, candidates: Tensor, fitness: Tensor) -> Memory:
        """The chances after a round."""
        count = math.ceil(self.survivors * len(candidates))
        order = fitness.sort(descending=True, stable=True).indices[:count]
        learned = candidates[order].double().mean(dim=0)
        chances = (1 - self.rate) * self._chances(memory) + self.rate * learned
        return {"chances": chances.clamp(self.margin, 1 - self.margin)}

    def _chances(self, memory: Memory) -> Tensor:
        if memory:
            return memory["chances"]
        return torch.full((self.length,), 0.5, dtype=torch.float64)

"""Genetic search: the fit have more children, which mix their parents' genes and mutate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.tables import look_up
from tersor.prune.search.loop import Memory

Selection = Callable[[Tensor, int, torch.Generator], Tensor]
"""Fitness (n,) and a count to the places (count,) of those that become parents."""


def tournament(fitness: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Of two drawn at random the fitter one, so many times; the earlier one in a tie.

    The i-th best of n, counted from 0, wins with the chance (2 (n - i) - 1) / n**2.
    """
    rivals = torch.randint(len(fitness), (2, count), generator=random).sort(dim=0).values
    return torch.where(fitness[rivals[1]] > fitness[rivals[0]], rivals[1], rivals[0])


def roulette(fitness: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Each with a chance in proportion to its fitness; all alike if all are zero.

    It is not a softmax, which would be Boltzmann selection.

    Raises:
        ConfigError: a fitness is below zero or not finite, so it is no proportion.
    """
    if not (torch.isfinite(fitness) & (fitness >= 0)).all():
        raise ConfigError(
            f"roulette: a fitness of {float(fitness.min())}; expected finite numbers, 0 or more. "
            "Take tournament, which looks at the order alone"
        )
    shares = fitness if fitness.any() else torch.ones_like(fitness)
    return torch.multinomial(shares, count, replacement=True, generator=random)


SELECTIONS: dict[str, Selection] = {f.__name__: f for f in (tournament, roulette)}


class Genes(Protocol):
    """What candidates are made of."""

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Candidates to begin with, (count, length)."""
        ...

    def mutate(self, candidates: Tensor, random: torch.Generator) -> Tensor:
        """Each candidate, a little changed."""
        ...


@dataclass(frozen=True)
class Bits:
    """Masks: True = kept.

    Args:
        length: bits.
        mutation: the chance of each bit to flip; 1 / length if None.
    """

    length: int
    mutation: float | None = None

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Every bit by the toss of a coin."""
        return torch.rand(count, self.length, generator=random) < 0.5

    def mutate(self, candidates: Tensor, random: torch.Generator) -> Tensor:
        """Every bit flips with the chance `mutation`."""
        chance = 1 / self.length if self.mutation is None else self.mutation
        return candidates ^ (torch.rand(candidates.shape, generator=random) < chance)


@dataclass(frozen=True)
class Densities:
    """A density for each layer, from `low` to `high`, in logarithms.

    Args:
        length: layers.
        low, high: 0 < low < high <= 1.
        spread: standard deviation of a mutation, as a share of log(high / low).

    Raises:
        ConfigError: the bounds are out of order.
    """

    length: int
    low: float
    high: float = 1.0
    spread: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 1:
            raise ConfigError(
                f"Densities: low {self.low}, high {self.high}; expected 0 < low < high <= 1"
            )

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Every density log-uniform between the bounds."""
        shares = torch.rand(count, self.length, generator=random, dtype=torch.float64)
        return self.low * (self.high / self.low) ** shares

    def mutate(self, candidates: Tensor, random: torch.Generator) -> Tensor:
        """Every density times the exponential of a normal number."""
        moves = torch.randn(candidates.shape, generator=random, dtype=torch.float64)
        moved = candidates * torch.exp(self.spread * math.log(self.high / self.low) * moves)
        return moved.clamp(self.low, self.high)


@dataclass(frozen=True)
class Genetic:
    """A generation a round: the elite lives on, the others are children of two parents.

    A child has each gene of one parent or the other, by the toss of a coin, and then mutates.

    Args:
        genes: `Bits`, `Densities`, or what has their two functions.
        population: candidates a round.
        elites: the fittest so many are in the next generation as they are, so the best stays.
        selection: of the parents: a key of `SELECTIONS`, or a function.

    Raises:
        ConfigError: there are no children, or the selection is unknown.

    Source: Whitley, Starkweather and Bogart 1990, Genetic algorithms and neural networks, for
    masks; their steady-state replacement is by generations here.
    """

    genes: Genes
    population: int = 30
    elites: int = 1
    selection: str | Selection = "tournament"

    def __post_init__(self) -> None:
        if not 0 <= self.elites < self.population:
            raise ConfigError(
                f"Genetic: {self.elites} elites of {self.population}; expected fewer, 0 or more"
            )
        look_up("selection", self.selection, SELECTIONS)

    def propose(self, memory: Memory, random: torch.Generator) -> Tensor:
        """The next generation, (population, length), the elite first."""
        if not memory:
            return self.genes.draw(self.population, random)
        candidates, fitness = memory["candidates"], memory["fitness"]
        choose = look_up("selection", self.selection, SELECTIONS)
        count = self.population - self.elites
        one, other = (candidates[choose(fitness, count, random)] for _ in range(2))
        children = torch.where(torch.rand(one.shape, generator=random) < 0.5, one, other)
        elite = candidates[fitness.sort(descending=True, stable=True).indices[: self.elites]]
        return torch.cat([elite, self.genes.mutate(children, random)])

    def update(self, memory: Memory, candidates: Tensor, fitness: Tensor) -> Memory:
        """The generation that the next one descends from."""
        return {"candidates": candidates, "fitness": fitness}

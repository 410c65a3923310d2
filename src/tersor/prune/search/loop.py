"""Search: propose candidates, find out how fit they are, learn from it, and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import generator

Memory = dict[str, Tensor]
"""What a strategy knows from the rounds before; empty at the start."""

Fitness = Callable[[Tensor], float]
"""A candidate, 1-D, to how good it is: higher = better. Asked once for each candidate."""


class Strategy(Protocol):
    """What a search needs to know: two functions without a state of their own."""

    def propose(self, memory: Memory, random: torch.Generator) -> Tensor:
        """The candidates of a round, (population, length)."""
        ...

    def update(self, memory: Memory, candidates: Tensor, fitness: Tensor) -> Memory:
        """What is known after a round; fitness is (population,), float64."""
        ...


class Search:
    """A strategy at work. Same seed, same candidates; the best so far never gets worse.

    The random numbers of a round depend on the seed and the number of the round alone, so a search
    that is loaded goes on as if it had not stopped.

    Args:
        strategy: what proposes and learns.
        fitness: higher = better; always the same for the same candidate.
        seed: of all that is random.

    >>> from tersor.prune.search import Bits, Genetic
    >>> search = Search(Genetic(Bits(8)), lambda bits: float(bits.sum()))
    >>> search.run(20)
    >>> search.best.int().tolist(), search.best_fitness
    ([1, 1, 1, 1, 1, 1, 1, 1], 8.0)
    """

    def __init__(self, strategy: Strategy, fitness: Fitness, *, seed: int = 0) -> None:
        self.strategy, self.fitness, self.seed = strategy, fitness, seed
        self.memory: Memory = {}
        self.history: list[float] = []
        self._known: dict[bytes, float] = {}
        self._best: Tensor | None = None

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return len(self.history)

    @property
    def evaluations(self) -> int:
        """Different candidates whose fitness was asked for."""
        return len(self._known)

    @property
    def best(self) -> Tensor:
        """The fittest candidate so far, the first of equal ones.

        Raises:
            ConfigError: no round is done.
        """
        if self._best is None:
            raise ConfigError("search: no round is done yet, so there is no best; call run")
        return self._best

    @property
    def best_fitness(self) -> float:
        """The fitness of the best; minus infinity before the first round."""
        return self.history[-1] if self.history else -math.inf

    def run(self, until: int) -> None:
        """Search on until so many rounds are done since the start.

        Raises:
            ConfigError: a fitness is NaN.
        """
        while self.rounds < until:
            random = generator(self.seed, "search", self.rounds)
            candidates = self.strategy.propose(self.memory, random)
            top = self.best_fitness
            found = []
            for candidate in candidates:
                value = self._fitness_of(candidate)
                if self._best is None or value > top:
                    self._best, top = candidate.clone(), value
                found.append(value)
            fitness = torch.tensor(found, dtype=torch.float64)
            self.memory = self.strategy.update(self.memory, candidates, fitness)
            self.history.append(top)

    def report(self) -> Report:
        """The best fitness after each round."""
        rows = [{"round": i + 1, "best so far": value} for i, value in enumerate(self.history)]
        summary = {"best fitness": self.best_fitness, "candidates evaluated": self.evaluations}
        return Report("Search", summary, rows)

    def state_dict(self) -> dict[str, Any]:
        """All that `run` goes on from, as tensors and numbers."""
        return {
            "memory": {name: tensor.clone() for name, tensor in self.memory.items()},
            "history": list(self.history),
            "known": {key.hex(): value for key, value in self._known.items()},
            "best": None if self._best is None else self._best.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to where a `state_dict()` was taken."""
        self.memory = {name: tensor.clone() for name, tensor in state["memory"].items()}
        self.history = list(state["history"])
        self._known = {bytes.fromhex(key): value for key, value in state["known"].items()}
        self._best = None if state["best"] is None else state["best"].clone()

    def _fitness_of(self, candidate: Tensor) -> float:
        key = candidate.contiguous().numpy().tobytes()
        if key not in self._known:
            value = float(self.fitness(candidate))
            if math.isnan(value):
                raise ConfigError("search: a fitness is NaN, so there is no order")
            self._known[key] = value
        return self._known[key]

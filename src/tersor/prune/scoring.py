"""What a criterion is given (model, data, loss, seed) and what it gives: scores, higher = keep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.derivatives import Loss, differentiable
from tersor.core.errors import ConfigError
from tersor.core.seeding import generator, rng_state, set_rng_state
from tersor.core.weights import Weight

T = TypeVar("T")

Scores = Mapping[str, Tensor]
"""Qualified weight name to a float tensor of the weight's shape, higher = keep."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs and targets."""


@dataclass(frozen=True)
class ScoringData:
    """What a criterion may look at besides the weights.

    Args:
        batches: inputs and targets; can be gone through many times. All of them are looked at, so
            a criterion that is to see one mini-batch is given a list of one.
        loss: `outputs, targets -> scalar`, the mean over the batch.
        seed: for criteria that draw random numbers.
    """

    batches: Batches | None = None
    loss: Loss = F.cross_entropy
    seed: int = 0

    def each(self, model: nn.Module, criterion: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches on the model's device, for the criterion of this name.

        Raises:
            ConfigError: there are none.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        empty = True
        for inputs, targets in self.batches or ():
            empty = False
            yield inputs.to(device), targets.to(device)
        if empty:
            raise ConfigError(
                f"criterion {criterion!r} looks at data, and there is none; "
                "expected data=, batches of (inputs, targets)"
            )

    def generator(self, *scope: str | int) -> torch.Generator:
        """A generator of random numbers for one purpose, on the CPU."""
        return generator(self.seed, "scoring", *scope)


class FirstBatches:
    """The first `count` batches of others, anew each time; no global random generator moves.

    Of a loader that shuffles these are other ones each time, as its order depends on the global
    generator: a fresh draw at each pruning, and still the same for the same seed.

    >>> list(FirstBatches([("a", 0), ("b", 1), ("c", 0)], 2))
    [('a', 0), ('b', 1)]
    """

    def __init__(self, batches: Batches, count: int) -> None:
        if count < 1:
            raise ConfigError(f"batches: {count}; expected 1 or more")
        self._batches, self._count = batches, count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        state = rng_state()
        try:
            found = list(itertools.islice(self._batches, self._count))
        finally:
            set_rng_state(state)
        return iter(found)


Data = ScoringData | Batches | None
"""What a user may give as `data=`: batches alone have the loss cross-entropy and the seed 0."""

Criterion = Callable[[nn.Module, ScoringData], Scores]


def as_scoring_data(data: Data) -> ScoringData:
    """Batches, or nothing, as `ScoringData`; what is one already as it is."""
    return data if isinstance(data, ScoringData) else ScoringData(data)


def mean_gradients(
    model: nn.Module, weights: list[Weight], data: ScoringData, criterion: str
) -> list[Tensor]:
    """The gradient of the mean loss over all samples of all batches, one tensor per weight.

    Raises:
        ConfigError: there is no data.
    """
    parameters = [weight.parameter for weight in weights]
    means: list[Tensor] = []
    samples = 0
    with differentiable(model, weights):
        for inputs, targets in data.each(model, criterion):
            loss = data.loss(model(inputs), targets)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            samples += len(inputs)
            if not means:
                means = [gradient.contiguous() for gradient in found]
            else:
                for index, gradient in enumerate(found):
                    # Not in place: parameters that are added share one gradient tensor.
                    means[index] = means[index].lerp(gradient, len(inputs) / samples)
    return means


class Lazily(Mapping[str, T]):
    """Things by name that are made when asked for, so that a large model's never stand together.

    >>> scores = Lazily({"a": lambda: torch.ones(2)})
    >>> list(scores), scores["a"]
    (['a'], tensor([1., 1.]))
    """

    def __init__(self, makers: Mapping[str, Callable[[], T]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> T:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

"""A task: the data of training, validation and test, the loss, and what counts as a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from tersor.core.errors import ConfigError
from tersor.core.seeding import rng_state, set_rng_state

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
"""Batches of (inputs, targets), as a DataLoader gives them; can be gone through many times."""


def top1_mistakes(logits: Tensor, targets: Tensor) -> Tensor:
    """1.0 for each sample whose largest logit is not that of its class, else 0.0.

    Shapes: logits (N, C, *), targets (N, *) of class numbers; the result is (N, *), float32.

    >>> top1_mistakes(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([0., 1.])
    """
    return (logits.argmax(dim=1) != targets).float()


@dataclass(frozen=True)
class Task:
    """What a network is for: three sets of data, a loss, and a count of mistakes.

    **Every choice is made on `validation`: epochs, densities, bits, which of two networks. The
    `test` set is read once, at the end, to report the error; nothing is chosen by it.**

    Args:
        name: how reports call it.
        train, validation, test: batches of (inputs, targets): a DataLoader, a list, or any other
            iterable that can be gone through many times.
        loss: `outputs, targets -> scalar`, the mean over the batch; what training makes small.
        mistakes: `outputs, targets -> (N,)` float tensor, 1.0 for a sample that the network gets
            wrong and 0.0 for one that it gets right; its mean is the error.
        perplexity: whether reports show exp(loss), as is usual where the loss is the mean
            cross-entropy of the next token.

    Raises:
        ConfigError: an argument is of the wrong kind, for instance a generator, which is used up
            after one epoch.

    >>> batches = [(torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))]
    >>> Task("zeros", batches, batches, batches).example_input.shape
    torch.Size([1, 8])
    """

    name: str
    train: Batches
    validation: Batches
    test: Batches
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    mistakes: Callable[[Tensor, Tensor], Tensor] = top1_mistakes
    perplexity: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"Task: name is {self.name!r}, expected a word or two")
        for part in ("train", "validation", "test"):
            batches = getattr(self, part)
            if isinstance(batches, Iterator):
                raise ConfigError(
                    f"Task {self.name!r}: {part} is a {type(batches).__name__}, which is used up "
                    "after one epoch; expected a DataLoader, or a list of (inputs, targets)"
                )
            if not isinstance(batches, Iterable):
                raise ConfigError(
                    f"Task {self.name!r}: {part} is a {type(batches).__name__}, "
                    "expected a DataLoader, or a list of (inputs, targets)"
                )
        for part in ("loss", "mistakes"):
            if not callable(getattr(self, part)):
                raise ConfigError(
                    f"Task {self.name!r}: {part} is {getattr(self, part)!r}, "
                    "expected a function of outputs and targets"
                )

    @property
    def example_input(self) -> Tensor:
        """One sample of the validation set as a batch of one, shape (1, *).

        No random generator moves: the global ones and the loader's own stand where they stood.

        Raises:
            ConfigError: the validation set is empty, or gives no (inputs, targets) of tensors.
        """
        own = _own_generators(self.validation)
        own_states = [generator.get_state() for generator in own]
        state = rng_state()
        try:
            batch = next(iter(self.validation), None)
        finally:
            set_rng_state(state)
            for generator, own_state in zip(own, own_states, strict=True):
                generator.set_state(own_state)
        if batch is None:
            raise ConfigError(f"Task {self.name!r}: the validation set has no batches")
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ConfigError(
                f"Task {self.name!r}: a batch of validation is a {type(batch).__name__}, "
                "expected a pair (inputs, targets)"
            )
        inputs = batch[0]
        if not isinstance(inputs, Tensor) or inputs.dim() == 0 or len(inputs) == 0:
            raise ConfigError(
                f"Task {self.name!r}: the inputs of validation are "
                f"{tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__}, "
                "expected a tensor with one sample or more along its first dimension"
            )
        return inputs[:1]


def _own_generators(batches: object) -> list[torch.Generator]:
    """The generators that a DataLoader or its sampler was given, which a pass would move."""
    if not isinstance(batches, DataLoader):
        return []
    found = (batches.generator, getattr(batches.sampler, "generator", None))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

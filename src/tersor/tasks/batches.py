"""Loaders of data that fits into memory: a whole batch is cut out at once, not sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

EVALUATION_BATCH = 1000
"""Samples a batch where no gradients are needed; the result does not depend on it."""


Prepare: TypeAlias = Callable[[Tensor], Tensor]
"""Stored inputs of a batch to those that a network is given; may draw random numbers."""


class InMemory(Dataset[tuple[Tensor, Tensor]]):
    """Inputs (N, *) and targets (N,) in memory; a list of indices gives a whole batch.

    Args:
        inputs, targets: as they are stored.
        prepare: done to the inputs of a batch whenever it is made; by default nothing is.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, prepare: Prepare | None = None) -> None:
        self.inputs = inputs
        self.targets = targets
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch: DataLoader asks for it where it is there, and hands it to `collate_fn`."""
        index = torch.tensor(indices)
        inputs = self.inputs.index_select(0, index)
        if self.prepare is not None:
            inputs = self.prepare(inputs)
        return inputs, self.targets.index_select(0, index)


def training_loader(
    inputs: Tensor, targets: Tensor, *, batch_size: int, prepare: Prepare | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches in an order that torch's global generator decides, a new one each epoch."""
    data = InMemory(inputs, targets, prepare)
    return DataLoader(data, batch_size=batch_size, shuffle=True, collate_fn=_as_it_is)


def evaluation_loader(
    inputs: Tensor,
    targets: Tensor,
    *,
    batch_size: int = EVALUATION_BATCH,
    prepare: Prepare | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Large batches in the order of the data."""
    data = InMemory(inputs, targets, prepare)
    return DataLoader(data, batch_size, collate_fn=_as_it_is)


def split(count: int, held_out: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Indices of `count` samples in random parts: the rest first, then `held_out` samples each.

    >>> [len(part) for part in split(10, (2, 3), torch.Generator().manual_seed(0))]
    [5, 2, 3]
    """
    order = torch.randperm(count, generator=generator)
    return list(torch.split(order, [count - sum(held_out), *held_out]))


def _as_it_is(batch: Any) -> Any:
    return batch  # a named function, as worker processes cannot be given a lambda

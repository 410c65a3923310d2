"""Several processes, as `accelerate launch` or `torchrun` starts them; one without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tersor.core.errors import MissingExtraError
from tersor.tasks import Batches

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """Accelerate's state of this process among the others; the first call joins them.

    Raises:
        MissingExtraError: the extra `train` is not installed.
    """
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("training", "accelerate", "train") from error
    # Without this hint Accelerate takes several processes on CPUs for as many single ones.
    wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=wanted or not torch.accelerator.is_available())


def share_of(batches: Batches) -> Batches:
    """Of batches that are no DataLoader, those for this process: as many for each.

    The n-th process takes each n-th batch; where they do not go round, the first ones do so again,
    as in Accelerate's own loaders.
    """
    state = processes()
    return batches if state.num_processes == 1 else _Share(batches, state)


class _Share:
    def __init__(self, batches: Batches, state: PartialState) -> None:
        self._batches, self._state = batches, state

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        index, count = self._state.process_index, self._state.num_processes
        first: list[tuple[Tensor, Tensor]] = []  # one round, in case the last is not complete
        number = -1
        for number, batch in enumerate(self._batches):
            if len(first) < count:
                first.append(batch)
            if number % count == index:
                yield batch
        left = (number + 1) % count
        if 0 < left <= index:
            yield first[(index - left) % len(first)]


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    try:
        return bool(processes().is_main_process)
    except MissingExtraError:  # so nothing has started several
        return True


def wait_for_everyone() -> None:
    """Go on when all processes have come here."""
    try:
        processes().wait_for_everyone()
    except MissingExtraError:
        return

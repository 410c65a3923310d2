"""Accelerate for the time of one training; afterwards it and the model are as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from tersor.core.errors import ConfigError
from tersor.train.processes import processes

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextlib.contextmanager
def accelerating(model: nn.Module, precision: str) -> Iterator[Accelerator]:
    """An accelerator of this mixed precision for one training of a model.

    Raises:
        ConfigError: the machine cannot compute in this precision.
        MissingExtraError: the extra `train` is not installed.
    """
    processes()  # joins the others, or says that Accelerate is missing
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Accelerate has one precision a process, in this mapping; each training has its own.
    shared = AcceleratorState._shared_state
    before, attributes = dict(shared), dict(vars(model))
    shared.clear()
    try:
        try:
            accelerator = Accelerator(mixed_precision=precision)
        except ValueError as error:
            raise ConfigError(f"precision: {precision!r}; {error}") from error
        try:
            yield accelerator
        finally:
            # Undoes the forward of mixed precision, which Accelerate puts on the model itself.
            accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            for name in set(vars(model)) - set(attributes):
                delattr(model, name)
            accelerator.free_memory()
    finally:
        shared.clear()
        shared.update(before)

"""Run a model over the batches of any loader, for what is watched meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.observing import observing


def feed(model: nn.Module, data: Iterable[Any], *, batches: int | None = None) -> int:
    """Call the model with the inputs of each batch, in eval mode without gradients; how many.

    The model and the global random generators are as before, but for what hooks do.

    Args:
        model: what it gives is not looked at.
        data: batches: a tensor, or a tuple or list whose first part is the inputs (targets are not
            looked at), or a mapping of keyword arguments of the model.
        batches: the first so many; None: all of them.

    Raises:
        ConfigError: there are no batches, or `batches` is below 1.

    >>> feed(nn.Linear(3, 2), [(torch.ones(4, 3), torch.zeros(4)), torch.ones(4, 3)])
    2
    """
    if batches is not None and batches < 1:
        raise ConfigError(f"batches: {batches}; expected 1 or more, or None for all")
    count = 0
    with observing(model) as device:
        for batch in itertools.islice(data, batches):
            _call(model, batch, device)
            count += 1
    if count == 0:
        raise ConfigError("data: there are no batches; expected a loader or a list of batches")
    return count


def _call(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{name: _on(value, device) for name, value in batch.items()})
        return
    model(_on(batch[0] if isinstance(batch, tuple | list) else batch, device))


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value

"""A model as it is used, looked at without a trace: eval mode, no gradients, then all as before."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch
from torch import nn

from tersor.core.seeding import rng_state, set_rng_state


@contextlib.contextmanager
def observing(model: nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradients, on the device that is given; afterwards all is as it was.

    That is the training flag of each module, also where they differ, and the global random
    generators: how often a model is looked at does not change how it trains.
    """
    flags = [(module, module.training) for module in model.modules()]
    state = rng_state()
    model.eval()
    try:
        with torch.no_grad():
            yield _device(model)
    finally:
        for module, training in flags:
            module.training = training
        set_rng_state(state)


def _device(model: nn.Module) -> torch.device:
    """Where the model's first tensor is; the CPU for a model without any."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device

"""Whether factors are faster than the layer: both are timed in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.feeding import feed

_RUNS = 15


def inputs_of(model: nn.Module, layers: dict[str, nn.Module], example: Any) -> dict[str, Tensor]:
    """What comes into each layer for an example, by name; of several calls the first."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def hook(module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            found.setdefault(name, args[0].detach().clone())

        handles.append(layer.register_forward_pre_hook(hook))
    try:
        feed(model, [example])
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.inference_mode()
def speed_up(layer: nn.Module, factors: nn.Module, x: Tensor) -> float:
    """Median time of the layer by that of the factors; above 1 the factors are faster."""
    times: list[list[float]] = [[], []]
    modes = layer.training, factors.training
    layer.eval()
    factors.eval()
    for run in range(_RUNS + 2):  # two to warm up
        for module, taken in zip((layer, factors), times, strict=True):
            began = time.perf_counter()
            module(x)
            if run >= 2:
                taken.append(time.perf_counter() - began)
    layer.train(modes[0])
    factors.train(modes[1])
    return statistics.median(times[0]) / statistics.median(times[1])

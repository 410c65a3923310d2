"""How often a layer multiplies, and its factors: counted without running them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tersor.factorize.layers import CONVOLUTIONS

_POSITIONS = 16  # along each side of what a convolution gives, so that edges hardly count


def macs_ratio(layer: nn.Module, factors: nn.Module) -> float | None:
    """Multiply-accumulates of the factors by those of the layer, for one input.

    It is above what the weights alone say where a first factor sees more positions than come out,
    as with a stride, and where factors are multiplied with each other. Of a convolution the image
    is one from which about 16 positions a side come out.

    None: the layer looks rows up, and multiplies nothing.

    >>> first, last = nn.Linear(64, 4, bias=False), nn.Linear(4, 64)
    >>> macs_ratio(nn.Linear(64, 64), nn.Sequential(first, last))
    0.125
    """
    example = _example(layer)
    if example is None:
        return None
    before, after = (_flops(module, example) for module in (layer, factors))
    return after / before if before else None


def _flops(module: nn.Module, example: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(module).to("meta")(example)
    return counter.get_total_flops()


def _example(layer: Any) -> Tensor | None:
    if isinstance(layer, CONVOLUTIONS):
        steps = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
        sides = [(_POSITIONS - 1) * s + d * (size - 1) + 1 for size, s, d in steps]
        return torch.empty(1, layer.in_channels, *sides, dtype=layer.weight.dtype, device="meta")
    if isinstance(layer, nn.Linear):
        return torch.empty(1, layer.in_features, dtype=layer.weight.dtype, device="meta")
    return None

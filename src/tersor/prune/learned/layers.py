"""Which layers can learn what is zero in them, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.weights import Selectors, Weight, survey

Layer = TypeVar("Layer", bound=nn.Module)


def maskable(
    model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
) -> tuple[list[Weight], dict[str, str]]:
    """Weights of linear layers and 2-d convolutions, and for each other parameter why not.

    Raises:
        ConfigError: a selector matches nothing, or no weight is left.

    >>> weights, skipped = maskable(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)))
    >>> [w.name for w in weights], skipped["1.weight_ih_l0"]
    (['0.weight'], 'of LSTM; expected Linear or Conv2d')
    """
    kinds = (nn.Linear, nn.Conv2d)
    return _sorted(model, select, ignore, lambda weight: isinstance(weight.module, kinds))


def replaceable(
    model: nn.Module,
    becomes: Mapping[type[nn.Module], type[nn.Module]],
    *,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[list[Weight], dict[str, str]]:
    """Weights of just the layers of these types, as what has its own forward computes otherwise.

    Raises:
        ConfigError: as `maskable`.
    """

    def known(weight: Weight) -> bool:
        return type(weight.module) in becomes and not parametrize.is_parametrized(weight.module)

    return _sorted(model, select, ignore, known)


def prepared(
    title: str, rows: list[tuple[Weight, int]], skipped: Mapping[str, str], *, column: str
) -> Report:
    """A report on weights that were prepared: to each the number of its gates, noises or scores."""
    return Report(
        title,
        {"weights": sum(weight.parameter.numel() for weight, _ in rows)},
        [
            {
                "name": weight.name,
                "kind": weight.kind,
                "shape": "x".join(map(str, weight.shape)),
                "weights": weight.parameter.numel(),
                column: count,
            }
            for weight, count in rows
        ],
        skipped,
    )


def affine(layer: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What this linear layer or convolution computes, with another weight and bias."""
    if isinstance(layer, nn.Conv2d):
        outputs: Tensor = layer._conv_forward(inputs, weight, bias)  # strides, padding modes, ...
        return outputs
    return F.linear(inputs, weight, bias)


def become(layer: nn.Module, kind: type[Layer]) -> Layer:
    """Make a layer, in place, one of another class that differs from its own by what it adds.

    torch's parametrizations do the same: names, hooks and whoever holds the layer stay.
    """
    layer.__class__ = kind
    return cast(Layer, layer)


def noise_of_samples(values: Tensor, channel: int) -> Tensor:
    """Standard normal noise for each sample and channel of some values, to be broadcast.

    Args:
        values: `(N, *)`, or one sample alone.
        channel: the dimension of the channels, in the way torch counts.

    >>> noise_of_samples(torch.zeros(8, 3, 28, 28), 1).shape
    torch.Size([8, 3, 1, 1])
    """
    kept = {0, channel % values.dim()}
    shape = [side if dim in kept else 1 for dim, side in enumerate(values.shape)]
    return torch.randn(shape, dtype=values.dtype, device=values.device)


def _sorted(
    model: nn.Module, select: Selectors, ignore: Selectors, known: Callable[[Weight], bool]
) -> tuple[list[Weight], dict[str, str]]:
    weights, skipped = survey(model, select=select, ignore=ignore)
    taken = []
    for weight in weights:
        if weight.aliases:
            skipped[weight.name] = f"tied with {weight.aliases[0]}: a mask here would untie them"
        elif not known(weight):
            skipped[weight.name] = f"of {type(weight.module).__name__}; expected Linear or Conv2d"
        else:
            taken.append(weight)
    if not taken:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise ConfigError(f"{type(model).__name__} has no weight that can learn zeros ({reasons})")
    return taken, skipped

"""Fully connected networks of any widths and any activation."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from tersor.core.errors import ConfigError


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    widths: Sequence[int] = (100, 100),
    activation: Callable[[], nn.Module] = nn.Tanh,
) -> nn.Module:
    """Hidden layers of these widths, an activation after each, and a layer of logits.

    `mlp-3`, `mlp-5` and `mlp-7` of the catalog have that many layers of weights, the last one
    included: 2, 4 and 6 hidden layers of 100 units, tanh.

    Shapes: (N, *input_shape) -> (N, classes). Layers are named fc1, fc2, ...

    Args:
        input_shape: of one sample, any shape.
        classes: how many logits come out.
        widths: units of each hidden layer; with none of them the network is one linear map.
        activation: makes the module behind a hidden layer: nn.Tanh, nn.ReLU, nn.LeakyReLU,
            nn.SELU, or nn.Identity for a linear network.

    Source: the MLPs of Lee et al. 2020, arXiv 1906.06307.

    Raises:
        ConfigError: a width is below 1.

    >>> mlp((1, 8, 8), 10, widths=(20,), activation=nn.ReLU)
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (fc1): Linear(in_features=64, out_features=20, bias=True)
      (act1): ReLU()
      (fc2): Linear(in_features=20, out_features=10, bias=True)
    )
    """
    if any(width < 1 for width in widths):
        raise ConfigError(f"mlp: widths {tuple(widths)}, expected 1 or more units in each layer")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    units = math.prod(input_shape)
    for number, width in enumerate(widths, start=1):
        layers[f"fc{number}"] = nn.Linear(units, width)
        layers[f"act{number}"] = activation()
        units = width
    layers[f"fc{len(widths) + 1}"] = nn.Linear(units, classes)
    return nn.Sequential(layers)

"""Small reference networks of the compression literature, by name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean


def lenet_300_100(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two hidden layers of 300 and 100 units; 266,610 parameters for MNIST.

    Shapes: (N, *input_shape) -> (N, classes).

    Source: LeCun et al. 1998, in the layout of Han, Mao and Dally 2016, arXiv 1510.00149; ReLU.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(math.prod(input_shape), 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )


def lenet_5(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions, two fully connected layers; 431,080 parameters for MNIST.

    Shapes: (N, C, H, W) -> (N, classes); H and W at least 16.

    Source: Caffe's `examples/mnist/lenet.prototxt`, which Han, Mao and Dally 2016 compress: no
    padding, and a ReLU after fc1 only.

    Raises:
        ConfigError: the input is no image, or too small for two unpadded 5 x 5 convolutions.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 16:
        raise ConfigError(
            f"lenet-5: input_shape {tuple(input_shape)}, expected (channels, height, width) of at "
            "least 16 x 16, as its two convolutions and poolings leave nothing of less. "
            "lenet-300-100 takes any shape"
        )
    channels, height, width = input_shape
    left = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * math.prod(left), 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
}
"""Name of a network to the function that builds it, called with input shape and classes."""


def build_model(
    name: str, *, input_shape: tuple[int, ...] = (1, 28, 28), classes: int = 10
) -> nn.Module:
    """Build a network by name, with PyTorch's default initialisation.

    Args:
        name: a key of `MODELS`.
        input_shape: of one sample, (channels, height, width).
        classes: how many logits come out.

    Raises:
        ConfigError: there is no network of this name, or it cannot take this input.

    >>> sum(p.numel() for p in build_model("lenet-5").parameters())
    431080
    """
    if name not in MODELS:
        raise ConfigError(f"build_model: unknown model {name!r}; {did_you_mean(name, MODELS)}")
    shape = tuple(input_shape)
    if not shape or min(shape) < 1:
        raise ConfigError(f"build_model: input_shape {shape}, expected sides of 1 or more")
    if classes < 1:
        raise ConfigError(f"build_model: classes {classes}, expected 1 or more")
    return MODELS[name](shape, classes)

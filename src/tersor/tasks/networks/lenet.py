"""The two LeNets of the compression literature."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from tersor.tasks.networks.images import image_sides


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

    Shapes: (N, C, H, W) -> (N, classes); H and W at least 16, as two unpadded 5 x 5 convolutions
    with poolings leave nothing of less.

    Source: Caffe's `examples/mnist/lenet.prototxt`, which Han, Mao and Dally 2016 compress: no
    padding, and a ReLU after fc1 only.

    Raises:
        ConfigError: the input is no image, or too small.
    """
    channels, height, width = image_sides("lenet-5", input_shape, at_least=16)
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

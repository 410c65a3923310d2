"""Residual networks for small images: 6 n + 2 layers of 16, 32 and 64 filters."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks.images import image_sides


def resnet(input_shape: tuple[int, ...], classes: int, *, depth: int) -> nn.Module:
    """ResNet-`depth` for CIFAR: a convolution, three stages of n blocks, mean over the image, fc.

    78,042 parameters for depth 8, 272,474 for 20, 466,906 for 32, 855,770 for 56, with ten
    classes in colour.

    Shapes: (N, C, H, W) -> (N, classes); the second and third stage halve H and W.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2 (.27M, .46M, .85M). Where the shape
    changes, the shortcut is a 1 x 1 convolution with batch norm, their option B, as in the work on
    lottery tickets; theirs for CIFAR is option A, 2,752 parameters less. Initialised as torch does.

    Raises:
        ConfigError: the input is no image, or the depth is not 6 n + 2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ConfigError(f"resnet: depth {depth}, expected 6 n + 2: 8, 14, 20, 32, 56, ...")
    channels, _, _ = image_sides(f"resnet-{depth}", input_shape)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
    )
    inputs = 16
    for stage, filters in enumerate((16, 32, 64), start=1):
        for number in range(1, blocks + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            parts[f"block{stage}_{number}"] = BasicBlock(inputs, filters, stride)
            inputs = filters
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(parts)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))), the shortcut a projection where it must.

    Shapes: (N, inputs, H, W) -> (N, filters, H / stride, W / stride), rounded up.
    """

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != filters:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(inputs, filters, 1, stride, bias=False),
                    bn=nn.BatchNorm2d(filters),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + residual)

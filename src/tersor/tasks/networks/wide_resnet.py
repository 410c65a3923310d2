"""Wide residual networks: 6 n + 4 layers of 16 k, 32 k and 64 k filters, normalised first."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks.images import image_sides


def wide_resnet(input_shape: tuple[int, ...], classes: int, *, depth: int, widen: int) -> nn.Module:
    """WRN-`depth`-`widen`: a convolution, three stages of n blocks, batch norm, mean, fc.

    With ten classes in colour: WRN-16-8 10.96M parameters, WRN-16-10 17.12M, WRN-22-8 17.16M.

    Shapes: (N, C, H, W) -> (N, classes); the second and third stage halve H and W.

    Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146, B(3, 3) without dropout. Initialised as
    torch does.

    Raises:
        ConfigError: the input is no image, or the depth is not 6 n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1 or widen < 1:
        raise ConfigError(
            f"wide_resnet: depth {depth}, widen {widen}; expected a depth of 6 n + 4 (10, 16, 22, "
            "28, ...), and a widening of 1 or more"
        )
    channels, _, _ = image_sides(f"wrn-{depth}-{widen}", input_shape)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    )
    inputs = 16
    for stage, filters in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for number in range(1, blocks + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            parts[f"block{stage}_{number}"] = PreActivationBlock(inputs, filters, stride)
            inputs = filters
    parts["bn"], parts["relu"] = nn.BatchNorm2d(inputs), nn.ReLU()
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(parts)


class PreActivationBlock(nn.Module):
    """x + conv(relu(bn(conv(a)))) with a = relu(bn(x)); where the shape changes, conv(a) for x.

    Shapes: (N, inputs, H, W) -> (N, filters, H / stride, W / stride), rounded up.
    """

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inputs, filters, 1, stride, bias=False)
            if stride != 1 or inputs != filters
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))

"""VGG networks for small images: five blocks of convolutions with batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks.images import image_sides

VGG_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
VGG_16_SMALL = ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128))
"""Filters of the convolutions, block by block; the small one is a quarter as wide."""


def vgg(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    blocks: Sequence[Sequence[int]],
    hidden: Sequence[int] = (),
    pointwise: bool = False,
) -> nn.Module:
    """Blocks of 3 x 3 convolutions, each with batch norm and ReLU, a 2 x 2 maximum between blocks.

    What is left of the image behind the last block becomes one number a filter: its mean, or its
    maximum where hidden layers follow (so for 32 x 32 the usual fifth pooling). Of the catalog:

    | network | blocks | hidden | weights, ten classes in colour | published |
    | vgg-16 | VGG_16 | | 14.7M | |
    | vgg-19 | VGG_19 | | 20.0M | 20.0M, Frankle and Carbin |
    | vgg-like | VGG_16 | 512 | 15.0M | 15.0M, Lee et al. |
    | vgg-c | VGG_16, pointwise | 512, 512 | 10.5M | 10.5M, Lee et al. |
    | vgg-d | VGG_16 | 512, 512 | 15.2M | 15.2M, Lee et al. |
    | vgg-small | VGG_16_SMALL | | 0.92M | |

    Shapes: (N, C, H, W) -> (N, classes); H and W at least 2 ** (blocks - 1), 16 for those above.

    Args:
        input_shape: of one sample, (channels, height, width).
        classes: how many logits come out.
        blocks: filters of each convolution, block by block.
        hidden: units of the fully connected layers before the logits, with batch norm and ReLU.
        pointwise: the third convolution of a block is 1 x 1, as in column C of the paper.

    Source: Simonyan and Zisserman 2015, arXiv 1409.1556, table 1 (C, D, E), with batch norm, in the
    forms for CIFAR of Frankle and Carbin 2019, arXiv 1803.03635, and of Lee, Ajanthan and Torr
    2019, arXiv 1810.02340 (whose vgg-like is that of Zagoruyko 2015). No dropout; no bias before
    batch norm, where it does nothing.

    Raises:
        ConfigError: the input is no image, or too small for the poolings.
    """
    if not blocks or any(not block for block in blocks):
        raise ConfigError(
            f"vgg: blocks {blocks}, expected one or more, each of one or more filters"
        )
    channels, _, _ = image_sides("vgg", input_shape, at_least=2 ** (len(blocks) - 1))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for block, filters in enumerate(blocks, start=1):
        if block > 1:
            parts[f"pool{block - 1}"] = nn.MaxPool2d(2)
        for number, count in enumerate(filters, start=1):
            side = 1 if pointwise and number == 3 else 3
            name = f"{block}_{number}"
            parts[f"conv{name}"] = nn.Conv2d(channels, count, side, padding=side // 2, bias=False)
            parts[f"bn{name}"] = nn.BatchNorm2d(count)
            parts[f"relu{name}"] = nn.ReLU()
            channels = count
    parts["pool"] = nn.AdaptiveMaxPool2d(1) if hidden else nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    for number, units in enumerate(hidden, start=1):
        parts[f"fc{number}"] = nn.Linear(channels, units, bias=False)
        parts[f"fc_bn{number}"], parts[f"fc_relu{number}"] = nn.BatchNorm1d(units), nn.ReLU()
        channels = units
    parts[f"fc{len(hidden) + 1}"] = nn.Linear(channels, classes)
    return nn.Sequential(parts)

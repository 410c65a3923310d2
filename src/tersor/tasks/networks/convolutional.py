"""Conv-2, Conv-4 and Conv-6: scaled-down VGGs without normalisation."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks.images import image_sides


def conv(input_shape: tuple[int, ...], classes: int, *, layers: int) -> nn.Module:
    """`layers` 3 x 3 convolutions in pairs of 64, 128, 256 filters, and two hidden layers of 256.

    Each convolution keeps height and width ('same'), a ReLU follows it, and a 2 x 2 maximum
    follows each pair. For (3, 32, 32) Conv-2 has 4.30M parameters, Conv-4 2.42M and Conv-6 2.26M.

    Shapes: (N, C, H, W) -> (N, classes); H and W at least 2 ** (layers / 2).

    Source: Frankle and Carbin 2019, arXiv 1803.03635, figure 2. Its 1.7M for Conv-6 does not
    follow from its own list of layers, 2.26M does. Initialised as torch does, not Gaussian Glorot.

    Raises:
        ConfigError: the input is no image, or too small for the poolings, or `layers` is odd.
    """
    if layers < 2 or layers % 2:
        raise ConfigError(f"conv: layers {layers}, expected 2, 4, 6, ..., as they come in pairs")
    pairs = layers // 2
    channels, height, width = image_sides(f"conv-{layers}", input_shape, at_least=2**pairs)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, layers + 1):
        filters = 64 * 2 ** ((number - 1) // 2)
        parts[f"conv{number}"] = nn.Conv2d(channels, filters, 3, padding=1)
        parts[f"relu{number}"] = nn.ReLU()
        channels = filters
        if number % 2 == 0:
            parts[f"pool{number // 2}"] = nn.MaxPool2d(2)
    units = channels * (height >> pairs) * (width >> pairs)
    parts["flatten"] = nn.Flatten()
    parts["fc1"], parts["fc_relu1"] = nn.Linear(units, 256), nn.ReLU()
    parts["fc2"], parts["fc_relu2"] = nn.Linear(256, 256), nn.ReLU()
    parts["fc3"] = nn.Linear(256, classes)
    return nn.Sequential(parts)

"""What networks for images ask of an input."""

from __future__ import annotations

from torch import Tensor

from tersor.core.errors import ConfigError


def image_sides(name: str, input_shape: tuple[int, ...], *, at_least: int = 1) -> tuple[int, ...]:
    """Channels, height and width of an input that is an image, large enough for the network.

    Raises:
        ConfigError: the input is no (channels, height, width), or a side is too small.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < at_least:
        sides = f" of at least {at_least} x {at_least}" if at_least > 1 else ""
        raise ConfigError(
            f"{name}: input_shape {tuple(input_shape)}, expected (channels, height, width){sides}. "
            "lenet-300-100 takes any shape"
        )
    return tuple(input_shape)


def rows(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as sequences of their rows, (N, H, C * W)."""
    return images.transpose(1, 2).flatten(2)

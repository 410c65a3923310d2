"""Activations rounded to an affine grid while a layer runs, as an integer machine would have them.

A `FakeQuantize` is a child of the layer, `input_quantizer`, through which its first input goes
before the layer sees it. The layer's own parameters keep their names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.levels import Levels
from tersor.quantize.straight_through import clipped, replaced

CHILD = "input_quantizer"
"""Under which name a layer holds what quantizes its input."""

MAX_BITS = 16


class FakeQuantize(nn.Module):
    """Values to the nearest of an affine grid: scale * (clip(round(x / scale) + z) - z).

    Backward the gradient passes inside the range and is 0 outside.

    Args:
        bits: 1 to 16; a symmetric grid needs 2.
        symmetric: zero point 0, q from -n to n with n = 2**(bits - 1) - 1; else q from 0 to
            2**bits - 1.
        low, high: the range that is covered, widened to contain 0.

    Raises:
        ConfigError: bits out of range, or an end of the range is not finite or on the wrong side.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 12 and section 3; straight-through as in
    Bengio, Leonard and Courville 2013, arXiv 1308.3432.

    >>> FakeQuantize(bits=2, low=0.0, high=3.0)(torch.tensor([-1.0, 0.4, 0.6, 9.0]))
    tensor([0., 0., 1., 3.])
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, *, bits: int = 8, symmetric: bool = False, low: float = -1.0, high: float = 1.0
    ) -> None:
        super().__init__()
        check_bits(bits, symmetric)
        if not (-float("inf") < low <= high < float("inf")):
            raise ConfigError(f"range: [{low}, {high}]; expected two finite ends in order")
        self.bits, self.symmetric = bits, symmetric
        ends = torch.tensor([low, high])
        scale, zero_point = self.levels.parameters(ends[0], ends[1])
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    @property
    def levels(self) -> Levels:
        """The integers of the grid."""
        return Levels(self.bits, self.symmetric)

    def range(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value."""
        low, high = (self.scale * (end - self.zero_point) for end in self._ends())
        return low, high

    def integers(self, values: Tensor) -> Tensor:
        """q of each value, int32: what an integer machine holds."""
        return self._steps(values).to(torch.int32) + self.zero_point

    def decode(self, integers: Tensor) -> Tensor:
        """The values of some q; of those of `integers(x)` bit for bit what `forward(x)` gives."""
        return (integers - self.zero_point).to(self.scale.dtype) * self.scale

    def forward(self, values: Tensor) -> Tensor:
        inside = values.detach()
        with torch.no_grad():
            rounded = (self._steps(inside) * self.scale).add_(0.0).to(values.dtype)  # no -0.0
        if not values.requires_grad:
            return rounded
        return replaced(values, rounded, clipped(inside, *self.range()))

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "affine"
        return f"bits={self.bits}, {kind}, scale={self.scale.item():.4g}"

    def _steps(self, values: Tensor) -> Tensor:
        """q - zero_point, as floats of the scale's dtype."""
        low, high = (float(end) for end in self._ends())
        steps = (values.to(self.scale.dtype) / self.scale).round_()
        if self.symmetric:
            return steps.clamp_(low, high)
        zero_point = self.zero_point.to(steps.dtype)
        return torch.minimum(torch.maximum(steps, low - zero_point), high - zero_point)

    def _ends(self) -> tuple[int, int]:
        return self.levels.low, self.levels.high


def check_bits(bits: object, symmetric: bool) -> None:
    """Check the width of the codes of activations.

    Raises:
        ConfigError: it is out of range.
    """
    least = 2 if symmetric else 1
    whole = isinstance(bits, int) and not isinstance(bits, bool)
    if not whole or not least <= bits <= MAX_BITS:  # type: ignore[operator]  # it is whole
        raise ConfigError(f"bits: {bits!r}; expected a whole number from {least} to {MAX_BITS}")


def put_before(layer: nn.Module, quantizer: nn.Module) -> None:
    """Let the first input of a layer go through a quantizer, which becomes a child of the layer."""
    layer.add_module(CHILD, quantizer)
    layer.register_forward_pre_hook(quantize_input)


def take_away(layer: nn.Module) -> None:
    """Undo `put_before`."""
    for key, hook in list(layer._forward_pre_hooks.items()):
        if hook is quantize_input:
            del layer._forward_pre_hooks[key]
    delattr(layer, CHILD)


def quantize_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The hook; it looks the quantizer up at each call, so a deep copy has its own."""
    first, *rest = args
    return (getattr(layer, CHILD)(first), *rest)

"""DoReFa: weights squeezed by tanh onto evenly spaced values of [-1, 1], and coarse gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Selectors, prunable
from tersor.quantize.quantizer import rounded
from tersor.quantize.scales import importances, mean_of


def quantize_unit(values: Tensor, bits: int) -> Tensor:
    """Values of [0, 1] to the nearest of 2**bits evenly spaced ones; 32 bits leave them alone.

    round((2**bits - 1) * r) / (2**bits - 1)

    Source: Zhou et al. 2016, arXiv 1606.06160, eq. 5.

    >>> quantize_unit(torch.tensor([0.0, 0.4, 0.9]), 1).tolist()
    [0.0, 0.0, 1.0]
    """
    if bits >= 32:
        return values
    steps = 2**bits - 1
    found: Tensor = (values * steps).round() / steps
    return found


@dataclass(frozen=True)
class DoReFa:
    """2**bits evenly spaced values from -1 to 1, where tanh of the weights falls.

    w -> 2 * quantize_unit(tanh(w) / (2 * max|tanh w|) + 1/2) - 1

    With one bit sign(w) * mean |w|. The values do not keep the size of the weights (the largest
    one is always 1): for training from the start with normalisation layers, not for networks that
    are trained already.

    Args:
        bits: of a code, 1 to 8.

    Raises:
        ConfigError: the bits are out of range.

    Source: Zhou et al. 2016, arXiv 1606.06160, eq. 8 and 9. A weight that is on the grid already
    stays as it is, so quantizing twice is quantizing once.

    >>> DoReFa(bits=2)(torch.tensor([[0.1, -0.02, 0.05]])).mul(3).round().tolist()
    [[3.0, -1.0, 1.0]]
    """

    bits: int = 2
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 1 <= self.bits <= 8:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 1 to 8")

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> DoReFaGrid:
        values = weight if kept is None else torch.where(kept, weight, 0.0)
        if self.bits == 1:
            counts = importances(weight, kept, None)
            mean = mean_of(weight.abs().reshape(1, -1), counts.reshape(1, -1))
            return DoReFaGrid(1, mean.view(()), False)
        largest = values.tanh().abs().amax() if values.numel() else values.new_zeros(())
        plain = DoReFaGrid(self.bits, torch.ones_like(largest), True)
        on_grid = plain.round(weight) == weight
        if kept is not None:
            on_grid |= ~kept
        if bool(on_grid.all()):
            return plain
        return DoReFaGrid(self.bits, largest.clamp(min=torch.finfo(weight.dtype).tiny), False)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class DoReFaGrid:
    """2**bits evenly spaced values from -1 to 1; with one bit, -scale and scale.

    Args:
        bits: of a code.
        scale: largest |tanh w|; with one bit the value itself.
        plain: values are rounded as they are, without tanh.
    """

    bits: int
    scale: Tensor
    plain: bool

    def round(self, values: Tensor) -> Tensor:
        """The value that the squeezed entry is nearest to; the bare nearest one if `plain`."""
        if self.bits == 1:
            return torch.where(values < 0, -self.scale, self.scale) + 0.0
        squeezed = values if self.plain else values.tanh() / self.scale
        return 2 * quantize_unit((squeezed / 2 + 0.5).clamp(0, 1), self.bits) - 1

    def bounds(self) -> tuple[Tensor, Tensor]:
        high = self.scale if self.bits == 1 else torch.ones_like(self.scale)
        return -high, high


def squeezed(weight: Tensor) -> Tensor:
    """tanh(w) / max|tanh w|: what DoReFa rounds, with its gradient, that of the maximum too."""
    bent = weight.tanh()
    return bent / bent.abs().amax().clamp(min=torch.finfo(weight.dtype).tiny)


def quantize_gradient(
    gradient: Tensor, bits: int, generator: torch.Generator | None = None
) -> Tensor:
    """A gradient in 2**bits values between plus and minus its largest one, right on average.

    2 * m * (quantize_unit(g / (2 * m) + 1/2 + noise) - 1/2),  m = max|g| of each sample,
    noise uniform within half a step.

    Args:
        gradient: (samples, ...).
        bits: 1 or more; from 32 on it is left alone.
        generator: draws the noise; None is torch's global one.

    Source: Zhou et al. 2016, arXiv 1606.06160, eq. 12.

    >>> draw = torch.Generator().manual_seed(0)
    >>> coarse = quantize_gradient(torch.linspace(-1, 1, 9)[None], 2, draw)
    >>> coarse.mul(3).round().unique().tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """
    if bits >= 32 or gradient.numel() == 0:
        return gradient
    largest = gradient.abs().reshape(len(gradient), -1).amax(1)
    largest = largest.view(-1, *[1] * (gradient.dim() - 1))
    noise = torch.rand(gradient.shape, generator=generator, dtype=gradient.dtype).to(gradient)
    noise = (noise - 0.5) / (2**bits - 1)
    safe = largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    unit = (gradient / (2 * safe) + 0.5 + noise).clamp(0, 1)
    return 2 * largest * (quantize_unit(unit, bits) - 0.5)


class QuantizedGradients:
    """While it is entered, the gradients of the outputs of layers are quantized.

    Args:
        model: the model that trains.
        bits: of a gradient, 1 or more; the paper's 6.
        select, ignore: the layers whose weights these name.

    Raises:
        ConfigError: the bits are out of range, or no layer is left.

    Source: Zhou et al. 2016, arXiv 1606.06160, section 2.5. The noise is drawn from torch's global
    generator, as a Dropout's is.

    >>> layer, x = nn.Linear(3, 3), torch.eye(3)
    >>> with QuantizedGradients(layer, bits=1):
    ...     (layer(x) * torch.tensor([1.0, 0.5, 0.25])).sum().backward()
    >>> layer.weight.grad.abs().unique().tolist()
    [1.0]
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int = 6,
        *,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        if not isinstance(bits, int) or bits < 1:
            raise ConfigError(f"bits: {bits!r}; expected a whole number of 1 or more")
        self._bits = bits
        found = prunable(model, select=select, ignore=ignore)
        self._modules = list(dict.fromkeys(weight.module for weight in found))
        self._handles: list[Any] = []

    def __enter__(self) -> QuantizedGradients:
        self._handles = [module.register_forward_hook(self._watch) for module in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: quantize_gradient(gradient, self._bits))

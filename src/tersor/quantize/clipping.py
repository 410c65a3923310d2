"""Activations that are clipped at a level which is trained, or given, and rounded below it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.fake_quantize import CHILD, FakeQuantize, check_bits
from tersor.quantize.levels import Levels
from tersor.quantize.straight_through import replaced


class Pact(nn.Module):
    """PACT: y = clip(x, 0, alpha), rounded to a multiple of alpha / (2**bits - 1); alpha trains.

    Backward rounding passes everything, so dy/dx = 1 for 0 < x < alpha and dy/dalpha = 1 for
    x >= alpha. With `signed` y = clip(x, -alpha, alpha), rounded to a multiple of
    alpha / (2**(bits - 1) - 1), and dy/dalpha = -1 for x <= -alpha.

    Args:
        bits: 1 to 16, 2 to 16 if signed; None only clips.
        alpha: to begin with, above 0.
        signed: for values on both sides of zero.

    Raises:
        ConfigError: a setting is out of range.

    Source: Choi et al. 2018, arXiv 1805.06085, eq. 1 to 3; the signed form is ours.

    >>> pact = Pact(bits=2, alpha=3.0)
    >>> y = pact(torch.tensor([-1.0, 0.4, 0.6, 9.0, 4.0]))
    >>> y.sum().backward()
    >>> y.tolist(), pact.alpha.grad.item()
    ([0.0, 0.0, 1.0, 3.0, 3.0], 2.0)
    """

    def __init__(self, *, bits: int | None = 8, alpha: float = 10.0, signed: bool = False) -> None:
        super().__init__()
        if bits is not None:
            check_bits(bits, signed)
        if not (0 < alpha < math.inf):
            raise ConfigError(f"alpha: {alpha}; expected a finite number above 0")
        self.bits, self.signed = bits, signed
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, values: Tensor) -> Tensor:
        alpha = self.alpha.to(values.dtype)
        low = -alpha if self.signed else torch.zeros_like(alpha)
        # Where, not minimum, whose gradient at x = alpha would go to both halves.
        clipped = torch.where(values >= alpha, alpha, torch.where(values <= low, low, values))
        if self.bits is None:
            return clipped
        with torch.no_grad():
            scale = alpha / Levels(self.bits, self.signed).high
            rounded = (clipped / scale).round_().mul_(scale).add_(0.0)
        return replaced(clipped, rounded, torch.ones_like(rounded))

    def fixed(self) -> FakeQuantize:
        """What it has learned, as a quantizer that trains no more.

        Raises:
            ConfigError: it only clips, or its level is 0 or less.
        """
        if self.bits is None:
            raise ConfigError("Pact: it has no bits, so there is no grid to fix")
        alpha = self.alpha.item()
        if not (0 < alpha < math.inf):
            raise ConfigError(f"Pact: alpha is {alpha}; expected a finite number above 0")
        low = -alpha if self.signed else 0.0
        return FakeQuantize(bits=self.bits, symmetric=self.signed, low=low, high=alpha)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, alpha={self.alpha.item():.4g}, signed={self.signed}"


def clipping_penalty(model: nn.Module) -> Tensor:
    """The sum of alpha**2 over all `Pact` of a model: what stands in the loss with a small factor.

    It pulls the levels down, so that the grid below them gets finer. Weight decay on the same
    parameters does as much.

    Source: Choi et al. 2018, arXiv 1805.06085, section 3; their factor is that of the weights.

    Raises:
        ConfigError: there is none.
    """
    levels = [module.alpha for module in model.modules() if isinstance(module, Pact)]
    if not levels:
        raise ConfigError(f"{type(model).__name__} has no Pact")
    return torch.stack([alpha.square() for alpha in levels]).sum()


def fix_clipping_(model: nn.Module) -> int:
    """Turn every `Pact` that quantizes the input of a layer into a `FakeQuantize`; how many.

    Raises:
        ConfigError: one of them cannot be fixed; then nothing is changed.
    """
    found = {
        layer: quantizer.fixed()
        for layer in model.modules()
        if isinstance(quantizer := layer._modules.get(CHILD), Pact)
    }
    for layer, quantizer in found.items():
        setattr(layer, CHILD, quantizer.to(next(layer.parameters()).device))
    return len(found)


def unit_clipping(bits: int, *, signed: bool = False) -> FakeQuantize:
    """Values clipped to [0, 1], or [-1, 1], and rounded to so many bits.

    The activations of DoReFa and of WRPN; WRPN makes layers twice as wide to make up for it.

    Source: Zhou et al. 2016, arXiv 1606.06160, eq. 11; Mishra et al. 2017, arXiv 1709.01134.

    >>> unit_clipping(1)(torch.tensor([-2.0, 0.4, 0.6, 7.0])).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    return FakeQuantize(bits=bits, symmetric=signed, low=-1.0 if signed else 0.0, high=1.0)

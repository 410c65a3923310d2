"""DSQ: an even grid with a learned range, and a soft stair for the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.learners import Moment

LARGEST_ALPHA = 0.5
SMALLEST_ALPHA = 1e-3


def soft_stair(values: Tensor, low: Tensor, high: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """An even grid from low to high whose jumps are smooth.

    low + step * (i + (s * tanh(k * (x - m_i)) + 1) / 2),  step = (high - low) / (2**bits - 1),
    m_i the middle of the i-th interval,  s = 1 / (1 - alpha),  k = log(2 / alpha - 1) / step;
    values beyond the ends go to the ends. alpha -> 0 gives the stair itself.

    Source: Gong et al. 2019, arXiv 1908.05033, eq. 3 to 8.

    >>> at = torch.linspace(0, 3, 7)
    >>> ends = torch.tensor(0.0), torch.tensor(3.0)
    >>> soft_stair(at, *ends, torch.tensor(1e-6), 2).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    """
    intervals = 2**bits - 1
    step = (high - low) / intervals
    inside = torch.minimum(torch.maximum(values, low), high)
    index = ((inside - low) / step).detach().floor().clamp(0, intervals - 1)
    middle = low + (index + 0.5) * step
    steepness = (2 / alpha - 1).log() / step
    bend = (steepness * (inside - middle)).tanh() / (1 - alpha)
    found: Tensor = low + step * (index + (bend + 1) / 2)
    return found


@dataclass(frozen=True)
class SoftStair:
    """w -> the nearest of 2**bits even values from low to high; backward the soft stair.

    low, high and alpha (how soft: 0 < alpha <= 0.5) are learned, one of each for a weight; at first
    the range of the weights.

    Args:
        bits: 1 to 8.
        alpha: at first.

    Raises:
        ConfigError: a setting is out of range.

    Source: Gong et al. 2019, arXiv 1908.05033. A limit at 0.5 stands for the penalty that keeps
    alpha below it.
    """

    bits: int = 4
    alpha: float = 0.2

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 1 <= self.bits <= 8:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 1 to 8")
        if not SMALLEST_ALPHA <= self.alpha <= LARGEST_ALPHA:
            raise ConfigError(
                f"alpha: {self.alpha!r}; expected {SMALLEST_ALPHA} to {LARGEST_ALPHA}"
            )

    def start(self, weight: Tensor, kept: Tensor) -> SoftStairLearner:
        return SoftStairLearner(self, weight, kept)


class SoftStairLearner:
    """`SoftStair` at work."""

    def __init__(self, training: SoftStair, weight: Tensor, kept: Tensor) -> None:
        self._bits = training.bits
        held = weight[kept] if bool(kept.any()) else weight.new_zeros(1)
        low, high = held.amin(), held.amax()
        if not high > low:
            low, high = low - 1e-6, high + 1e-6
        self._least = float(high - low) * 1e-3
        alpha = weight.new_tensor(training.alpha)
        parts = {"low": low, "high": high, "alpha": alpha}
        self.learned = {name: nn.Parameter(value.clone()) for name, value in parts.items()}

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        low, high = self.learned["low"].detach(), self.learned["high"].detach()
        step = (high - low) / (2**self._bits - 1)
        codes = ((latent - low) / step).round().clamp(0, 2**self._bits - 1)
        return torch.where(kept, low + codes * step, 0.0) + 0.0

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        wanted = torch.where(kept, gradient, 0.0)
        with torch.enable_grad():
            hidden = latent.clone().requires_grad_()
            low, high, alpha = ends = [self.learned[name] for name in ("low", "high", "alpha")]
            seen = soft_stair(hidden, low, high, alpha, self._bits)
            found = torch.autograd.grad(seen, [hidden, *ends], wanted)
        for parameter, part in zip(ends, found[1:], strict=True):
            parameter.grad = part
        return found[0]

    def restrain(self, latent: Tensor) -> None:
        low, high, alpha = (self.learned[n].detach() for n in ("low", "high", "alpha"))
        high.copy_(torch.maximum(high, low + self._least))
        alpha.clamp_(SMALLEST_ALPHA, LARGEST_ALPHA)

    def finished(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

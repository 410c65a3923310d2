"""Differentiable quantization: the values of a codebook are trained by the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.learners import Moment


@dataclass(frozen=True)
class LearnedLevels:
    """w -> the nearest of 2**bits values p_j, and dL/dp_j = sum of dL/dq over the weights at p_j.

    At first the values are quantiles of the weights.

    Args:
        bits: 1 to 8.
        weights: the hidden weights are trained, too (straight through), so that they can change
            places; False is the paper's.

    Raises:
        ConfigError: the bits are out of range.

    Source: Polino, Pascanu and Alistarh 2018, arXiv 1802.05668, section 4, with one bucket a weight
    tensor.
    """

    bits: int = 4
    weights: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 1 <= self.bits <= 8:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 1 to 8")

    def start(self, weight: Tensor, kept: Tensor) -> LearnedLevelsLearner:
        return LearnedLevelsLearner(self, weight, kept)


class LearnedLevelsLearner:
    """`LearnedLevels` at work."""

    def __init__(self, training: LearnedLevels, weight: Tensor, kept: Tensor) -> None:
        self._train_weights = training.weights
        ordered = (weight[kept] if bool(kept.any()) else weight.new_zeros(1)).sort().values
        count = 2**training.bits
        at = (torch.arange(count, dtype=torch.float64) + 0.5) / count * len(ordered)
        levels = ordered[at.long().clamp(max=len(ordered) - 1).to(ordered.device)]
        self.learned = {"levels": nn.Parameter(levels.clone())}

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        values = self.learned["levels"].detach()[self._codes(latent)]
        return torch.where(kept, values, 0.0) + 0.0

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        levels = self.learned["levels"]
        codes = self._codes(latent)[kept]
        levels.grad = torch.zeros_like(levels).index_add_(0, codes, gradient[kept])
        return gradient if self._train_weights else torch.zeros_like(gradient)

    def restrain(self, latent: Tensor) -> None:
        levels = self.learned["levels"].detach()
        levels.copy_(levels.cummax(0).values)  # ascending, as the search for the nearest needs

    def finished(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

    def _codes(self, latent: Tensor) -> Tensor:
        levels = self.learned["levels"].detach()
        return torch.bucketize(latent, (levels[1:] + levels[:-1]) / 2)

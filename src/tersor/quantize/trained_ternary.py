"""TTQ: zero and two learned values, one for each sign."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.learners import Moment
from tersor.quantize.scales import mean_of


@dataclass(frozen=True)
class TrainedTernary:
    """w -> positive where w > t, -negative where w < -t, else 0; t = threshold * max|w|.

    dL/dpositive = sum of dL/dq where it stands, dL/dnegative = minus that sum where it stands; the
    gradient of the hidden weights is dL/dq times positive, 1 or negative. At first both values are
    the mean of |w| where they stand.

    Args:
        threshold: 0 < threshold < 1.

    Raises:
        ConfigError: the threshold is out of range.

    Source: Zhu, Han, Mao and Dally 2017, arXiv 1612.01064, eq. 6 to 9. The hidden weights are not
    scaled to [-1, 1] first.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold: {self.threshold!r}; expected 0 < threshold < 1")

    @property
    def bits(self) -> float:
        return math.log2(3)

    def start(self, weight: Tensor, kept: Tensor) -> TrainedTernaryLearner:
        return TrainedTernaryLearner(self.threshold, weight, kept)


class TrainedTernaryLearner:
    """`TrainedTernary` at work."""

    def __init__(self, threshold: float, weight: Tensor, kept: Tensor) -> None:
        self._threshold = threshold
        self.learned = {
            name: nn.Parameter(mean_of(weight.abs().view(1, -1), where.view(1, -1).double())[0])
            for name, where in zip(("positive", "negative"), self._sides(weight, kept), strict=True)
        }
        self._least = {name: float(value.detach()) * 1e-3 for name, value in self.learned.items()}

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        up, down = self._sides(latent, kept)
        values = torch.where(up, self.learned["positive"].detach(), 0.0)
        return torch.where(down, -self.learned["negative"].detach(), values)

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        up, down = self._sides(latent, kept)
        positive, negative = self.learned["positive"], self.learned["negative"]
        positive.grad = torch.where(up, gradient, 0.0).sum()
        negative.grad = -torch.where(down, gradient, 0.0).sum()
        factors = torch.where(up, positive.detach(), 1.0)
        return gradient * torch.where(down, negative.detach(), factors)

    def restrain(self, latent: Tensor) -> None:
        for name, value in self.learned.items():
            value.detach().clamp_(min=self._least[name])

    def finished(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

    def _sides(self, latent: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Where the positive and where the negative value stands."""
        sizes = torch.where(kept, latent.abs(), 0.0)
        limit = self._threshold * sizes.amax()
        return kept & (latent > limit), kept & (latent < -limit)

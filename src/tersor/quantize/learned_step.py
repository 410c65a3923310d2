"""LSQ: an even grid whose step is trained with the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.learners import Moment
from tersor.quantize.scales import as_rows, check_share, mean_of, per_entry


@dataclass(frozen=True)
class LearnedStep:
    """w -> step * clip(round(w / step), -2**(bits - 1), 2**(bits - 1) - 1), the step learned.

    dL/dstep = g * sum(dL/dq * d),  d = round(w / step) - w / step inside the range, and the
    lowest or highest integer outside;  g = 1 / sqrt(n * (2**(bits - 1) - 1)) for n weights.
    The gradient of the weights passes inside the range. At first step = 2 mean|w| / sqrt(2**(bits -
    1) - 1).

    Args:
        bits: 2 to 8.
        granularity: what shares a step: "tensor" (the paper's) or "channel".

    Raises:
        ConfigError: a setting is out of range.

    Source: Esser, McKinstry, Bablani, Appuswamy and Modha 2020, arXiv 1902.08153, eq. 1 to 5.
    """

    bits: int = 4
    granularity: str = "tensor"

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 2 to 8")
        check_share(self.granularity)

    def start(self, weight: Tensor, kept: Tensor) -> LearnedStepLearner:
        return LearnedStepLearner(self, weight, kept)


class LearnedStepLearner:
    """`LearnedStep` at work."""

    def __init__(self, training: LearnedStep, weight: Tensor, kept: Tensor) -> None:
        self._low, self._high = -(2 ** (training.bits - 1)), 2 ** (training.bits - 1) - 1
        self._granularity = training.granularity
        counts = as_rows(kept.double(), training.granularity)
        mean = mean_of(as_rows(weight.abs(), training.granularity), counts)
        step = (2 * mean / math.sqrt(self._high)).clamp(min=1e-12)
        self._least = per_entry(step * 1e-3, weight)
        self._scale = per_entry(counts.sum(1).clamp(min=1) * self._high, weight).rsqrt().to(weight)
        self.learned = {"step": nn.Parameter(per_entry(step, weight).clone())}

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        step = self.learned["step"].detach()
        codes = (latent / step).round().clamp(self._low, self._high)
        return torch.where(kept, codes * step, 0.0) + 0.0

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        step = self.learned["step"]
        places = latent / step.detach()
        inside = (places >= self._low) & (places <= self._high)
        slopes = torch.where(inside, places.round() - places, places.clamp(self._low, self._high))
        parts = as_rows(torch.where(kept, gradient * slopes, 0.0), self._granularity)
        step.grad = per_entry(parts.sum(1), latent) * self._scale.to(latent.device)
        return torch.where(inside, gradient, 0.0)

    def restrain(self, latent: Tensor) -> None:
        step = self.learned["step"].detach()
        self._least = self._least.to(step.device)
        step.copy_(torch.maximum(step, self._least))

    def finished(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        pass

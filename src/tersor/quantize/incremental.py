"""INQ: the largest weights are quantized and frozen, the rest trains on, until all are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize.learners import Moment
from tersor.quantize.powers import PowerOfTwo
from tersor.quantize.quantizer import GridQuantizer


@dataclass(frozen=True)
class Incremental:
    """In each weight tensor a growing share is quantized and never changes again.

    The largest weights of those that are left go first; the grid is found before training.

    Args:
        every: optimizer steps from one share to the next; the last one is reached after
            (number of shares - 1) * every.
        shares: of the kept weights that are quantized in all, rising to 1.
        quantizer: whose grid is taken; the paper's `PowerOfTwo(5)`.

    Raises:
        ConfigError: a setting is out of range.

    Source: Zhou, Yao, Guo, Xu and Chen 2017, arXiv 1702.03044, section 2.
    """

    every: int
    shares: Sequence[float] = (0.5, 0.75, 0.875, 1.0)
    quantizer: GridQuantizer = field(default_factory=PowerOfTwo)

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"every: {self.every!r}; expected 1 or more optimizer steps")
        shares = list(self.shares)
        rising = all(a < b for a, b in zip([0.0, *shares], shares, strict=False))
        if not shares or not rising or shares[-1] != 1:
            raise ConfigError(f"shares: {self.shares!r}; expected rising shares that end with 1")
        if not isinstance(self.quantizer, GridQuantizer):
            raise ConfigError("quantizer: it works on several weights at once; expected a grid")

    @property
    def bits(self) -> float:
        return self.quantizer.bits

    def start(self, weight: Tensor, kept: Tensor) -> IncrementalLearner:
        return IncrementalLearner(self, weight, kept)


class IncrementalLearner:
    """`Incremental` at work."""

    def __init__(self, training: Incremental, weight: Tensor, kept: Tensor) -> None:
        self.learned: dict[str, nn.Parameter] = {}
        self._every, self._shares = training.every, list(training.shares)
        quantized = training.quantizer.fit(weight, kept)
        self._grid = quantized
        self._frozen = torch.zeros_like(kept)
        self._values = torch.zeros_like(weight)

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        share = self._shares[min(moment.step // self._every, len(self._shares) - 1)]
        if moment.generator is None:
            share = 1.0  # all of it, as at the end
        more = round(share * int(kept.sum())) - int(self._frozen.sum())
        if more > 0:
            sizes = torch.where(kept & ~self._frozen, latent.abs(), -1.0).flatten()
            chosen = sizes.sort(descending=True, stable=True).indices[:more]
            self._values.view(-1)[chosen] = self._grid.round(latent).reshape(-1)[chosen]
            self._frozen.view(-1)[chosen] = True
        self.restrain(latent)
        return torch.where(kept, latent, 0.0) + 0.0

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        return torch.where(self._frozen, 0.0, gradient)

    def restrain(self, latent: Tensor) -> None:
        latent.copy_(torch.where(self._frozen, self._values, latent))

    def finished(self, step: int) -> bool:
        return step >= self._every * (len(self._shares) - 1)

    def state(self) -> dict[str, Tensor]:
        return {"frozen": self._frozen, "values": self._values}

    def load(self, state: dict[str, Tensor]) -> None:
        self._frozen, self._values = state["frozen"].clone(), state["values"].clone()

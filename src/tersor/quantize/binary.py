"""One bit a weight: a scale, and the sign of each weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.quantizer import rounded
from tersor.quantize.scales import as_rows, check_share, importances, mean_of, per_entry


@dataclass(frozen=True)
class Binary:
    """Two values, +scale and -scale.

    w ~ scale * sign(w), scale = sum(h * |w|) / sum(h), h the importance: the scale with the
    smallest sum of h * (w - scale * sign(w))**2; without importance the mean of |w|. sign(0) = 1.

    Args:
        granularity: what shares a scale: "channel" (an output channel, the paper's) or "tensor".
        scale: a fixed one instead, above 0; 1 is BinaryConnect's.

    Raises:
        ConfigError: a setting is out of range.

    Source: Rastegari, Ordonez, Redmon and Farhadi 2016, arXiv 1603.05279, eq. 6; with importance
    Hou, Yao and Kwok 2017, arXiv 1611.01600, proposition 3.1.

    >>> Binary()(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    tensor([[ 1.5000, -1.5000],
            [ 0.3750,  0.3750]])
    """

    granularity: str = "channel"
    scale: float | None = None
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self.granularity)
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ConfigError(f"scale: {self.scale!r}; expected a number above 0, or None")

    @property
    def bits(self) -> float:
        return 1

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> BinaryGrid:
        if self.scale is not None:
            return BinaryGrid(weight.new_full((), self.scale))
        counts = as_rows(importances(weight, kept, importance), self.granularity)
        scale = mean_of(as_rows(weight.abs(), self.granularity), counts)
        return BinaryGrid(per_entry(scale, weight))

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class BinaryGrid:
    """The values +scale and -scale.

    Args:
        scale: not negative, broadcast to the weight.
    """

    scale: Tensor

    def round(self, values: Tensor) -> Tensor:
        """The value with the same sign; zero goes up."""
        return torch.where(values < 0, -self.scale, self.scale) + 0.0  # a scale of 0: no -0.0

    def stochastic(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Up with probability clip((w / scale + 1) / 2, 0, 1), the hard sigmoid of BinaryConnect.

        Source: Courbariaux, Bengio and David 2015, arXiv 1511.00363, eq. 2, for any scale.
        """
        chance = torch.rand(values.shape, generator=generator, dtype=values.dtype)
        return self.round(values + self.scale * (1 - 2 * chance.to(values.device)))

    def bounds(self) -> tuple[Tensor, Tensor]:
        return -self.scale, self.scale

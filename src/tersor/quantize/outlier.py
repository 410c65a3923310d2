"""Few large weights in high precision, so that all others share a narrow range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.affine import Affine
from tersor.quantize.formats import FloatFormat
from tersor.quantize.quantizer import Quantizer

FOUR_BITS = Affine(4, "tensor")
HALF = FloatFormat(5, 10, "ieee", granularity="tensor")


@dataclass(frozen=True)
class OutlierAware:
    """The largest kept weights rounded to 16 bits, the rest by another quantizer fit to it alone.

    Args:
        fraction: of the kept weights that are outliers, 0 to 1: round(fraction * n), the largest
            absolute values, of equal ones the first.
        inner: quantizes the rest.
        outer: quantizes the outliers; 16-bit floats whose range is that of the outliers.

    Raises:
        ConfigError: the fraction is out of range.

    Source: Park, Yoo and Vajda 2018, arXiv 1804.07802: 4-bit weights and 1 % outliers. Which
    entries are outliers is not counted among the bits.

    >>> weight = torch.tensor([[0.1, -0.2, 0.7, 100.0]])
    >>> Affine(4, "tensor")(weight).tolist()
    [[0.0, 0.0, 0.0, 100.0]]
    >>> [round(x, 3) for x in OutlierAware(0.25)(weight)[0].tolist()]
    [0.1, -0.2, 0.7, 100.0]
    """

    fraction: float = 0.01
    inner: Quantizer = FOUR_BITS
    outer: Quantizer = HALF
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"fraction: {self.fraction}; expected 0 <= fraction <= 1")

    @property
    def bits(self) -> float:
        return self.fraction * self.outer.bits + (1 - self.fraction) * self.inner.bits

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept
        large = outliers(weight, kept, self.fraction)
        found = torch.zeros_like(weight)
        for quantizer, part in ((self.outer, large), (self.inner, kept & ~large)):
            if bool(part.any()):
                found = torch.where(part, quantizer(weight, part, importance), found)
        return found


def outliers(weight: Tensor, kept: Tensor, fraction: float) -> Tensor:
    """Bool: the round(fraction * n) largest of the n kept entries; of equal ones the first.

    >>> outliers(torch.tensor([1.0, -3.0, 3.0]), torch.tensor([True] * 3), 0.34).tolist()
    [False, True, False]
    """
    count = round(fraction * int(kept.sum()))
    large = torch.zeros_like(kept)
    if count:
        sizes = torch.where(kept, weight.abs(), -1.0).flatten()
        least = sizes.kthvalue(len(sizes) - count + 1).values
        above = sizes > least
        ties = (sizes == least).nonzero().flatten()[: count - int(above.sum())]
        above[ties] = True
        large = above.view(weight.shape)
    return large

"""The integers of an affine grid, and the scale and zero point that a range of values gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Whole numbers q from `low` to `high`, which stand for scale * (q - zero_point).

    symmetric: q = -n .. n with n = 2**(bits - 1) - 1, and the zero point is 0;
    else:      q = 0 .. 2**bits - 1, and the zero point is one of them, so that 0 is a value.
    """

    bits: int
    symmetric: bool

    @property
    def low(self) -> int:
        return 1 - (1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1 if self.symmetric else self.bits)) - 1

    def parameters(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (of the dtype of the range) and zero point (int32) of ranges of values.

        symmetric: scale = max(|low|, |high|) / n
        else:      scale = (high - low) / (2**bits - 1), zero_point = round(-low / scale),
                   after the range is widened to contain 0.

        Args:
            low, high: ends of the ranges, of any shape. An empty range, [0, 0], has the scale 1.

        >>> Levels(8, symmetric=False).parameters(torch.tensor(-1.0), torch.tensor(4.1))
        (tensor(0.0200), tensor(50, dtype=torch.int32))
        """
        dtype = low.dtype
        low, high = low.double().clamp(max=0), high.double().clamp(min=0)
        reach = torch.maximum(-low, high) if self.symmetric else high - low
        exact = torch.where(reach > 0, reach / self.high, 1.0)
        scale = exact.to(dtype).clamp(min=torch.finfo(dtype).tiny)
        zero_point = torch.zeros_like(scale)
        if not self.symmetric:
            zero_point = (-low / scale.double()).round().clamp(0, self.high).to(dtype)
        # The ends lie up to half a step beyond the range: they have to be numbers of the dtype.
        most = torch.finfo(dtype).max / torch.maximum(zero_point, self.high - zero_point)
        scale = torch.minimum(scale, torch.nextafter(most, torch.zeros_like(most)))
        return scale, zero_point.to(torch.int32)

"""Powers of two: a product with a weight is a shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.quantizer import rounded
from tersor.quantize.scales import as_rows, check_share, per_entry


@dataclass(frozen=True)
class PowerOfTwo:
    """The values 0, +-2**low, ..., +-2**high.

    high = floor(log2(4 * max|w| / 3)), low = high + 1 - 2**(bits - 2)

    Args:
        bits: of a code, 2 to 8; one of them says zero or not, as the paper counts.
        granularity: what shares the exponents: "tensor" (the paper's) or "channel".

    Raises:
        ConfigError: a setting is out of range.

    Source: Zhou, Yao, Guo, Xu and Chen 2017, arXiv 1702.03044, eq. 1 to 4. Half-way between two
    values the larger one is taken, as there.

    >>> PowerOfTwo(bits=3)(torch.tensor([[0.9, -0.4, 0.2, 0.7]])).tolist()
    [[1.0, -0.5, 0.0, 0.5]]
    """

    bits: int = 5
    granularity: str = "tensor"
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 2 to 8")
        check_share(self.granularity)

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> PowerGrid:
        sizes = weight.abs() if kept is None else torch.where(kept, weight.abs(), 0.0)
        rows = as_rows(sizes, self.granularity)
        largest = rows.amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
        # 0.75 * 2**e <= largest < 1.5 * 2**e: the power to which the largest weight is rounded
        high = _nearest_exponent(largest)
        return PowerGrid(per_entry(high, weight), 2 ** (self.bits - 2))

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class PowerGrid:
    """Zero and the powers of two with the `count` exponents up to `high`, with either sign.

    Args:
        high: int32, broadcast to the weight.
        count: exponents.
    """

    high: Tensor
    count: int

    def round(self, values: Tensor) -> Tensor:
        """The nearest value; what lies half-way goes away from zero."""
        low = self.high + 1 - self.count
        exponents = torch.minimum(_nearest_exponent(values.abs()), self.high)
        sizes = torch.ldexp(torch.ones_like(values), torch.maximum(exponents, low))
        smallest = torch.ldexp(torch.ones_like(values), low - 1)
        return torch.where(values.abs() >= smallest, values.sign() * sizes, 0.0) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        high = torch.ldexp(torch.ones_like(self.high, dtype=torch.float32), self.high)
        return -high, high


def _nearest_exponent(sizes: Tensor) -> Tensor:
    """The exponent of the nearest power of two, half-way up; that of the least number for 0."""
    mantissa, exponent = torch.frexp(sizes)  # mantissa in [0.5, 1)
    nearest = exponent - (mantissa < 0.75).to(exponent.dtype)
    # Far above the least exponent, so that lower ones can be written, too.
    return torch.where(sizes > 0, nearest, -60)

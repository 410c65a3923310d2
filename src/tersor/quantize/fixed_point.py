"""Fixed point: whole multiples of a power of two, chosen beforehand or by the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.granularity import Blocks, check_granularity
from tersor.quantize.quantizer import rounded
from tersor.quantize.rounding import Rounding, nearest


@dataclass(frozen=True)
class FixedPoint:
    """Multiples of 2**-fraction_bits from -2**(integer_bits - 1) up, of so many bits in all.

    Args:
        integer_bits: bits before the point, the sign among them, 1 or more.
        fraction_bits: bits behind it; 1 to 24 bits in all.

    Raises:
        ConfigError: a setting is out of range.

    Source: Gupta, Agrawal, Gopalakrishnan and Narayanan 2015, arXiv 1502.02551, section 3; their
    stochastic rounding is `FixedPoint().fit(w).round(w, rounding)`.

    >>> FixedPoint(integer_bits=2, fraction_bits=2)(torch.tensor([[0.3, 9.0, -9.0]])).tolist()
    [[0.25, 1.75, -2.0]]
    """

    integer_bits: int = 2
    fraction_bits: int = 14
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("integer_bits", "fraction_bits"):
            value = getattr(self, name)
            least = 1 if name == "integer_bits" else 0
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name}: {value!r}; expected a whole number from {least} up")
        if self.bits > 24:
            raise ConfigError(
                f"fixed point: {self.bits} bits in all; expected at most 24, what float32 holds"
            )

    @property
    def bits(self) -> int:
        return self.integer_bits + self.fraction_bits

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> FixedPointGrid:
        blocks = Blocks.of(tuple(weight.shape), "tensor", 1)
        exponent = torch.full((1, 1), -self.fraction_bits, dtype=torch.int32, device=weight.device)
        return FixedPointGrid(exponent, self.bits, blocks)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True)
class DynamicFixedPoint:
    """Fixed point in which each group of weights has an exponent of its own.

    w ~ q * 2**E, E = floor(log2(max |w|)) - (bits - 2)

    Args:
        bits: of q in two's complement, 2 to 24.
        overflow: share of the weights that may be clipped, 0 <= overflow < 1: E is the least for
            which no more than these are as large as 2**(bits - 1 + E).
        granularity, group: what shares an exponent, as in `Affine`.

    Raises:
        ConfigError: a setting is out of range.

    Source: Das et al. 2018, arXiv 1802.00930, section 3 (overflow 0); Courbariaux, Bengio and David
    2014, arXiv 1412.7024, section 5: where their doubling and halving comes to rest, at once.

    >>> DynamicFixedPoint(bits=4)(torch.tensor([[5.0, 0.6, -1.4]])).tolist()
    [[5.0, 1.0, -1.0]]
    """

    bits: int = 8
    overflow: float = 0.0
    granularity: str = "tensor"
    group: int = 128
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 24:
            raise ConfigError(f"bits: {self.bits!r}; expected a whole number from 2 to 24")
        if not 0 <= self.overflow < 1:
            raise ConfigError(f"overflow: {self.overflow}; expected 0 <= overflow < 1")
        check_granularity(self.granularity, self.group)

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> FixedPointGrid:
        blocks = Blocks.of(tuple(weight.shape), self.granularity, self.group)
        kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept
        sizes = blocks.split(torch.where(kept, weight.abs(), 0.0))
        if self.overflow:
            counts = blocks.split(kept).sum(dim=-1, keepdim=True)
            clipped = (counts * self.overflow).floor().long()
            largest = sizes.sort(dim=-1, descending=True).values
            reach = largest.gather(-1, clipped.clamp(max=blocks.size - 1))[..., 0]
            reach = torch.where(reach > 0, reach, largest[..., 0])  # zeros tell no exponent
        else:
            reach = sizes.amax(dim=-1)
        _, exponent = torch.frexp(reach.double())  # 2**(exponent - 1) <= reach < 2**exponent
        least = -149 if weight.dtype != torch.float64 else -1022
        exponent = (exponent - 1 - (self.bits - 2)).clamp(min=least)
        return FixedPointGrid(exponent.to(torch.int32), self.bits, blocks)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class FixedPointGrid:
    """q * 2**exponent for q of some bits in two's complement.

    Args:
        exponent: (rows, blocks of a row) int32.
        bits: of q.
        blocks: which entries share an exponent.
    """

    exponent: Tensor
    bits: int
    blocks: Blocks

    def round(self, values: Tensor, rounding: Rounding = nearest) -> Tensor:
        """The nearest multiples, or as another rounding says, clipped to the range."""
        step = self._step()[..., None]
        steps = rounding(self.blocks.split(values.double()) / step)
        low, high = self._ends()
        # -2**(bits - 1 + E) may be no number of the dtype when its opposite is the largest.
        most = torch.finfo(values.dtype).max
        found = (steps.clamp_(low, high) * step).clamp_(-most, most)
        return self.blocks.join(found).to(values.dtype) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        low, high = (self.blocks.spread(self._step() * end) for end in self._ends())
        return low, high

    def _step(self) -> Tensor:
        return torch.ldexp(torch.ones_like(self.exponent, dtype=torch.float64), self.exponent)

    def _ends(self) -> tuple[int, int]:
        half = 1 << (self.bits - 1)
        return -half, half - 1

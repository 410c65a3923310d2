"""Number formats, simulated exactly in the dtype that the weights have.

A number of a format is a float32 number, too: only which of them there are is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean
from tersor.quantize.granularity import Blocks, check_granularity
from tersor.quantize.quantizer import rounded

SPECIALS = ("ieee", "nan", "none")
"""What the codes of the greatest exponent stand for: see `FloatFormat`."""

_PART = 1 << 20  # entries that are worked on at once, in float64


@dataclass(frozen=True)
class FloatFormat:
    """Floating point with a sign, some exponent bits and some mantissa bits, subnormals included.

    +-2**(E - bias) * (1 + M / 2**mantissa_bits), bias = 2**(exponent_bits - 1) - 1; rounded to the
    nearest, half-way to even.

    Args:
        exponent_bits: 2 to 8.
        mantissa_bits: 0 to 23, stored ones.
        specials: the greatest exponent stands for infinities and NaN ("ieee"), for numbers apart
            from its greatest mantissa, which is NaN ("nan", as float8_e4m3fn), or for numbers alone
            ("none", as float4_e2m1).
        saturate: what is too large becomes the greatest number; else infinity, or NaN.
        granularity: None rounds the numbers as they are. "tensor", "channel" or "group": they are
            scaled so that the largest of each group becomes the greatest number of the format.
        group: as in `Affine`.

    Raises:
        ConfigError: a setting is out of range.

    Source: Micikevicius et al. 2022, arXiv 2209.05433 for 8 bits; IEEE 754 for the rest. Also
    Mellempudi et al. 2019, arXiv 1905.12334; Kalamkar et al. 2019, arXiv 1905.12322 (bfloat16).

    >>> fp8 = FORMATS["fp8_e4m3"]
    >>> fp8(torch.tensor([[0.1, 17.0, 1000.0]])).tolist(), fp8.greatest, fp8.bits
    ([[0.1015625, 16.0, 448.0]], 448.0, 8)
    """

    exponent_bits: int = 4
    mantissa_bits: int = 3
    specials: str = "nan"
    saturate: bool = True
    granularity: str | None = None
    group: int = 128
    uses_importance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_whole("exponent_bits", self.exponent_bits, 2, 8)
        _check_whole("mantissa_bits", self.mantissa_bits, 0, 23)
        if self.specials not in SPECIALS:
            raise ConfigError(
                f"specials {self.specials!r}: {did_you_mean(self.specials, SPECIALS)}"
            )
        if self.granularity is not None:
            check_granularity(self.granularity, self.group)

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def greatest(self) -> float:
        """The greatest finite number."""
        top: float = 2.0 ** (2**self.exponent_bits - 1 - self._bias)  # of the greatest exponent
        last: float = 2.0**-self.mantissa_bits
        if self.specials == "ieee":
            return top / 2 * (2 - last)
        if self.specials == "none":
            return top * (2 - last)
        return top * (2 - 2 * last) if self.mantissa_bits else top / 2

    @property
    def _bias(self) -> int:
        return int(2 ** (self.exponent_bits - 1) - 1)

    def cast(self, values: Tensor) -> Tensor:
        """Each number as a conversion to the format gives it, -0.0, infinities and NaN included."""
        parts = [self._cast(part) for part in values.detach().flatten().split(_PART)]
        return torch.cat(parts).view(values.shape) if parts else values.clone()

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> FloatGrid:
        if self.granularity is None:
            return FloatGrid(self)
        blocks = Blocks.of(tuple(weight.shape), self.granularity, self.group)
        values = weight if kept is None else torch.where(kept, weight, 0.0)
        reach = blocks.split(values.abs()).amax(dim=-1).double()
        return FloatGrid(self, torch.where(reach > 0, reach / self.greatest, 1.0), blocks)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)

    def _cast(self, values: Tensor) -> Tensor:
        exact = values.double()
        _, exponent = torch.frexp(exact)  # x = m * 2**exponent, 1/2 <= m < 1
        least = 1 - self._bias  # exponent of the smallest normal number; below it steps are equal
        exponent = (exponent - 1).clamp(min=least) - self.mantissa_bits
        step = torch.ldexp(torch.ones_like(exact), exponent)
        found = (exact / step).round() * step
        beyond = found.abs() > self.greatest
        if self.saturate:
            found = torch.where(beyond, found.sign() * self.greatest, found)
        elif self.specials == "ieee":
            found = torch.where(beyond, found.sign() * torch.inf, found)
        else:
            found = torch.where(beyond, torch.nan, found)
        return found.to(values.dtype)


@dataclass(frozen=True, eq=False)
class FloatGrid:
    """The numbers of a format, times a scale for each block of a weight.

    Args:
        format: which numbers there are.
        scale: (rows, blocks of a row) float64; None: 1.
        blocks: which entries share a scale.
    """

    format: FloatFormat
    scale: Tensor | None = None
    blocks: Blocks | None = None

    def round(self, values: Tensor) -> Tensor:
        """The nearest numbers; never -0.0."""
        if self.scale is None or self.blocks is None:
            return self.format.cast(values) + 0.0
        scale = self.blocks.spread(self.scale)
        return (self.format.cast(values.double() / scale) * scale).to(values.dtype) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        if self.scale is None or self.blocks is None:
            high = torch.tensor(self.format.greatest)
        else:
            high = self.blocks.spread(self.scale * self.format.greatest)
        return -high, high


@dataclass(frozen=True)
class S2FP8:
    """8-bit floats of the shifted and squeezed logarithms of a tensor: its own range and middle.

    q = FP8(+-2**beta * |w|**alpha), alpha = 15 / (m - mu), beta = -alpha * mu,
    w ~ +-(2**-beta * |q|)**(1 / alpha), mu and m the mean and the greatest of log2 |w|

    over the kept weights that are not zero, so that log2 |q| has the mean 0 and the maximum 15; FP8
    is 1-5-2. If all are of one size they become 1 and come back exactly.

    Source: Cambier et al. 2020, arXiv 2001.05674, eq. 1 to 3. It saturates; nothing exceeds 2**15.

    >>> weight = torch.tensor([[1e-9, 1e-8, 1e-7]])
    >>> [round(ratio, 2) for ratio in (S2FP8()(weight) / weight)[0].tolist()]
    [1.0, 1.0, 1.0]
    >>> FORMATS["fp8_e5m2"](weight).tolist()
    [[0.0, 0.0, 0.0]]
    """

    uses_importance: ClassVar[bool] = False

    @property
    def bits(self) -> int:
        return 8

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> S2FP8Grid:
        values = weight if kept is None else weight[kept]
        logs = values[values != 0].abs().double().log2()
        if not len(logs):
            return S2FP8Grid(1.0, 0.0)
        mean, top = float(logs.mean()), float(logs.max())
        alpha = 15 / (top - mean) if top - mean > 1e-9 else 1.0
        return S2FP8Grid(alpha, -alpha * mean)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True)
class S2FP8Grid:
    """The numbers of S2FP8.

    Args:
        alpha, beta: how logarithms are squeezed and shifted.
    """

    alpha: float
    beta: float

    def round(self, values: Tensor) -> Tensor:
        """The numbers whose codes are the nearest ones."""
        exact = values.double()
        coded = FORMATS["fp8_e5m2"].cast((exact.abs().log2() * self.alpha + self.beta).exp2())
        found = self._decoded(coded).clamp(max=torch.finfo(values.dtype).max)
        return (found * exact.sign()).to(values.dtype) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        high = self._decoded(torch.tensor(FORMATS["fp8_e5m2"].greatest, dtype=torch.float64))
        return -high, high

    def _decoded(self, coded: Tensor) -> Tensor:
        return ((coded.log2() - self.beta) / self.alpha).exp2()


def _check_whole(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name}: {value!r}; expected a whole number from {least} to {most}")


FORMATS: dict[str, FloatFormat] = {
    "fp32": FloatFormat(8, 23, "ieee"),
    "tf32": FloatFormat(8, 10, "ieee"),
    "bf16": FloatFormat(8, 7, "ieee"),
    "fp16": FloatFormat(5, 10, "ieee"),
    "fp8_e4m3": FloatFormat(4, 3, "nan"),
    "fp8_e5m2": FloatFormat(5, 2, "ieee"),
    "fp6_e2m3": FloatFormat(2, 3, "none"),
    "fp6_e3m2": FloatFormat(3, 2, "none"),
    "fp4_e2m1": FloatFormat(2, 1, "none"),
}
"""Formats by name."""

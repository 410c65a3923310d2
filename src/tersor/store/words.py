"""A tensor as a row of words: the bits of its elements, whatever they mean.

An element is one unsigned word of its size, a complex element two (real part, imaginary part), so
words have 1, 2, 4 or 8 bytes. A word is zero when all its bits are: -0.0 and every NaN are not.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersor.core.errors import ConfigError

Words = NDArray[np.unsignedinteger[Any]]

DTYPE_NAMES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float4_e2m1fn_x2", "complex128", "complex64", "complex32", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
)
DTYPES: dict[str, torch.dtype] = {n: getattr(torch, n) for n in DTYPE_NAMES if hasattr(torch, n)}

_SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


PART_WORDS = 1 << 22
"""Most words that are coded together, where a tensor's rows allow it."""


@dataclass(frozen=True)
class Grid:
    """How the words lie: `rows` of `columns`; one row when the tensor has fewer than two sides.

    Args:
        kernel: so many columns in a row belong together, as the places of one convolution kernel.
    """

    rows: int
    columns: int
    word_size: int
    kernel: int = 1

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def part_count(self) -> int:
        """How many grids `parts` has."""
        if self.count <= PART_WORDS:
            return 1
        if self.columns <= PART_WORDS:
            return -(-self.rows // (PART_WORDS // self.columns))
        return -(-self.count // PART_WORDS)

    def parts(self) -> list[Grid]:
        """The grids that are coded one by one: whole rows, or pieces of rows that are too long.

        >>> [(part.rows, part.columns) for part in Grid(5, 1 << 21, 4).parts()]
        [(2, 2097152), (2, 2097152), (1, 2097152)]
        """
        if self.count <= PART_WORDS:
            return [self]
        if self.columns <= PART_WORDS:
            step = PART_WORDS // self.columns
            return [
                dataclasses.replace(self, rows=min(step, self.rows - row))
                for row in range(0, self.rows, step)
            ]
        return [
            Grid(1, min(PART_WORDS, self.count - begin), self.word_size)
            for begin in range(0, self.count, PART_WORDS)
        ]


def grid(dtype: torch.dtype, shape: tuple[int, ...]) -> Grid:
    """The grid of a tensor's words.

    >>> grid(torch.float16, (3, 2, 5))
    Grid(rows=3, columns=10, word_size=2, kernel=5)
    >>> grid(torch.complex64, (3,))
    Grid(rows=3, columns=2, word_size=4, kernel=1)
    """
    sides = (*shape, 2) if dtype.is_complex else shape
    word_size = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    if len(sides) < 2:
        return Grid(1, math.prod(sides), word_size)
    return Grid(sides[0], math.prod(sides[1:]), word_size, math.prod(sides[2:]) or 1)


def require_plain(value: object) -> Tensor:
    """The tensor itself, detached, when its bits say everything about it.

    Raises:
        ConfigError: it is no tensor, or one of another kind (subclass, quantized, sparse, meta).
    """
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"a {type(value).__name__}, expected a tensor. Take it out and keep it as metadata"
        )
    if type(value) not in (Tensor, nn.Parameter):
        raise ConfigError(
            f"a tensor subclass {type(value).__name__}, expected a plain tensor. Convert it first "
            "(a lazy parameter: run one batch; others: dequantize() or full_tensor())"
        )
    if value.layout != torch.strided:
        raise ConfigError(f"layout {value.layout}, expected torch.strided. Call to_dense() first")
    if value.is_quantized:
        raise ConfigError(
            f"dtype {value.dtype} is quantized. Call dequantize() or int_repr() first"
        )
    if value.device.type == "meta":
        raise ConfigError("on the meta device it has no values. Materialise the model first")
    if dtype_name(value.dtype) not in DTYPES:
        raise ConfigError(f"dtype {value.dtype} is not known to this format. Convert it first")
    return value.detach()


def dtype_name(dtype: torch.dtype) -> str:
    """The name in the file: torch's own without "torch."."""
    return str(dtype).removeprefix("torch.")


def to_words(tensor: Tensor) -> Words:
    """The words of a plain tensor, row-major, copied only where they do not lie so already."""
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    words = tensor.view(_SIGNED[tensor.dtype.itemsize]).contiguous().reshape(-1).numpy()
    return words.view(f"u{words.itemsize}")


def twin(tensor: Tensor) -> Tensor:
    """Another tensor with the same bits, also of a dtype that torch itself cannot copy."""
    return from_words(to_words(tensor).copy(), tensor.dtype, tuple(tensor.shape))


def from_words(words: Words, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The contiguous tensor of these words, whose memory it takes over."""
    # from_numpy gives an empty array the stride 0, which cannot be viewed as another dtype.
    octets = words.view(np.uint8)
    flat = torch.from_numpy(octets) if words.size else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(shape)

"""Which entries of a weight share a scale: all, those of an output channel, or blocks of inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean

GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class Blocks:
    """The groups of a weight: each of its rows is cut into blocks of consecutive entries.

    Args:
        shape: of the weight, (out, in, *kernel).
        rows: 1 for the whole tensor as a row, else the output channels.
        size: entries of a block; the last one of a row may be short.
    """

    shape: tuple[int, ...]
    rows: int
    size: int

    @classmethod
    def of(cls, shape: tuple[int, ...], granularity: str, group: int) -> Blocks:
        """The groups of "tensor", "channel" or "group", the latter of so many inputs.

        >>> blocks = Blocks.of((6, 10, 3, 3), "group", 32)
        >>> blocks.rows, blocks.per_row, blocks.count
        (6, 3, 18)
        """
        count = math.prod(shape)
        rows = 1 if granularity == "tensor" or not shape else shape[0]
        columns = count // max(rows, 1)
        size = min(group, columns) if granularity == "group" else columns
        return cls(tuple(shape), rows, max(size, 1))

    @property
    def columns(self) -> int:
        """Entries of a row."""
        return math.prod(self.shape) // max(self.rows, 1)

    @property
    def per_row(self) -> int:
        """Blocks of a row."""
        return -(-self.columns // self.size)

    @property
    def count(self) -> int:
        """Blocks in all."""
        return self.rows * self.per_row

    @property
    def padding(self) -> int:
        """Entries that the last block of each row lacks."""
        return self.per_row * self.size - self.columns

    def split(self, tensor: Tensor) -> Tensor:
        """A tensor shaped as the weight, as (rows, blocks of a row, size); zeros fill up."""
        flat = tensor.reshape(self.rows, self.columns).contiguous()
        if self.padding:
            flat = F.pad(flat, (0, self.padding))
        return flat.view(self.rows, self.per_row, self.size)

    def join(self, blocks: Tensor) -> Tensor:
        """What `split` cut, in the weight's shape."""
        flat = blocks.reshape(self.rows, self.per_row * self.size)
        return flat[:, : self.columns].reshape(self.shape)

    def spread(self, numbers: Tensor) -> Tensor:
        """A number for each block, (rows, blocks of a row), broadcast to the weight's shape."""
        if self.per_row == 1:
            return numbers.view(self.rows, *[1] * (len(self.shape) - 1))
        return self.join(numbers[:, :, None].expand(-1, -1, self.size))


def check_granularity(granularity: str, group: int) -> None:
    """Check the two settings.

    Raises:
        ConfigError: the name is unknown, or a group would hold no weight.
    """
    if granularity not in GRANULARITIES:
        raise ConfigError(
            f"granularity {granularity!r}: {did_you_mean(granularity, GRANULARITIES)}"
        )
    if not isinstance(group, int) or isinstance(group, bool) or group < 1:
        raise ConfigError(f"group: {group!r}; expected 1 or more weights that share a scale")

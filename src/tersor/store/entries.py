"""What a file says it holds: a record for each tensor, and where its streams end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tersor.store.codecs import Codec
from tersor.store.words import Grid


@dataclass(frozen=True)
class Part:
    """A part of a tensor: its streams follow those of the part before."""

    grid: Grid
    codec: Codec
    crc: int

    @property
    def byte_length(self) -> int:
        """Bytes of its streams in the file."""
        return self.codec.byte_length(self.grid)

    @property
    def table_length(self) -> int:
        """Bytes of codebook and code lengths, part of `byte_length`."""
        return self.codec.table_length(self.grid)


@dataclass(frozen=True)
class Stored:
    """A tensor with streams of its own.

    Args:
        parts: those of its grid, one after the other.
        base: CRC-32 of the base's words that the words are differences from; None = they are none.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    base: int | None = None

    @property
    def weights(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """Words of the tensor."""
        return sum(part.grid.count for part in self.parts)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return sum(part.grid.count * part.grid.word_size for part in self.parts)

    @property
    def byte_length(self) -> int:
        """Bytes of its streams in the file."""
        return sum(part.byte_length for part in self.parts)

    def __str__(self) -> str:
        """How it is stored."""
        kinds = list(dict.fromkeys(str(part.codec) for part in self.parts))
        text = kinds[0] if len(kinds) == 1 else f"{kinds[0]} and {len(kinds) - 1} more"
        return text if self.base is None else f"difference to the base: {text}"


@dataclass(frozen=True)
class Repeated:
    """A tensor that is stored already, as entry number `of`.

    Args:
        tied: the same tensor object; otherwise one of its own with equal bits.
    """

    name: str
    of: int
    tied: bool


Entry = Stored | Repeated


@dataclass(frozen=True)
class Header:
    """What a file holds, and what the user says about it."""

    entries: Sequence[Entry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def source(self, entry: Entry) -> Stored:
        """The entry whose streams say what this one is."""
        found = self.entries[entry.of] if isinstance(entry, Repeated) else entry
        assert isinstance(found, Stored)
        return found

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors in memory, tied ones once."""
        return sum(
            self.source(entry).dense_bytes
            for entry in self.entries
            if not (isinstance(entry, Repeated) and entry.tied)
        )

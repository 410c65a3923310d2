"""What a file holds, and where each of its bytes goes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tersor.core.report import Report, Value
from tersor.store.codecs import Dense
from tersor.store.container import VERSION, Opened, opened
from tersor.store.header import Entry, Repeated, Stored
from tersor.store.words import dtype_name, to_words


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Args:
        name, dtype, shape: as in the state dict; the dtype without "torch.".
        codec: in words; for a repeated tensor, of what.
        density: share of words that are not all zero bits; None when there are none.
        stored_bytes: all of its streams.
        table_bytes: codebook and code lengths, part of `stored_bytes`.
        bits_per_weight: stored bits / elements; None when there are none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str
    density: float | None
    stored_bytes: int
    table_bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Args:
        file_bytes: the size that the operating system reports.
        header_bytes: preamble and header; the rest are `stored_bytes` of the tensors.
        dense_bytes: the same tensors in memory, tied ones once.
    """

    path: Path
    version: int
    file_bytes: int
    header_bytes: int
    dense_bytes: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]

    def report(self) -> Report:
        """All of it as a report with one row per tensor."""
        summary: dict[str, Value] = {
            "file bytes": self.file_bytes,
            "header bytes": self.header_bytes,
            "dense bytes": self.dense_bytes,
            "ratio": self.dense_bytes / self.file_bytes,
            "version": self.version,
        }
        summary |= {f"metadata {key}": str(value) for key, value in self.metadata.items()}
        rows: list[dict[str, Value]] = []
        for tensor in self.tensors:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            rows.append(dataclasses.asdict(tensor) | {"shape": shape})
        return Report(str(self.path), summary, rows)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a `.terse` file. Only densely stored tensors are decoded, for their density.

    Raises:
        FormatError: as `load`.
        FileNotFoundError: there is no such file.
    """
    with opened(path) as file:
        return Inspection(
            path=file.path,
            version=VERSION,
            file_bytes=file.file_bytes,
            header_bytes=file.header_bytes,
            dense_bytes=file.header.dense_bytes,
            metadata=dict(file.header.metadata),
            tensors=tuple(_info(file, entry) for entry in file.header.entries),
        )


def _info(file: Opened, entry: Entry) -> TensorInfo:
    source = file.header.source(entry)
    if isinstance(entry, Repeated):
        codec = f"{'tied to' if entry.tied else 'same as'} {source.name}"
        stored = table = 0
    else:
        codec = str(entry.codec)
        stored, table = entry.byte_length, entry.codec.table_length(entry.grid)
    return TensorInfo(
        name=entry.name,
        dtype=dtype_name(source.dtype),
        shape=source.shape,
        codec=codec,
        density=_density(file, source),
        stored_bytes=stored,
        table_bytes=table,
        bits_per_weight=8 * stored / source.weights if source.weights else None,
    )


def _density(file: Opened, entry: Stored) -> float | None:
    count = entry.grid.count
    if count == 0:
        return None
    if isinstance(entry.codec.positions, Dense):
        return int(np.count_nonzero(to_words(file.tensor(entry)))) / count
    return entry.codec.positions.kept / count

"""What a file holds, and where each of its bytes goes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tersor.core.report import Report, Value
from tersor.store.choose import by_contexts, candidates
from tersor.store.codecs import Dense
from tersor.store.container import Base, Opened, opened
from tersor.store.entries import Entry, Repeated, Stored
from tersor.store.layout import FOLDER, HEADER, layout_of
from tersor.store.streams import decode
from tersor.store.words import Words, dtype_name, to_words


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Args:
        name, dtype, shape: as in the state dict; the dtype without "torch.".
        codec: in words; for a repeated tensor, of what.
        density: share of words that are not all zero bits; None when there are none.
        stored_bytes: all of its streams.
        share: of the bytes of the file.
        table_bytes: codebook and code lengths, part of `stored_bytes`.
        bits_per_weight: stored bits / elements; None when there are none.
        entropy_bits: order-0 entropy of its words in bits a weight: what a code for each word alone
            cannot beat; only with `codecs`.
        others: bytes that other codecs would have taken, by kind; only with `codecs`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str
    density: float | None
    stored_bytes: int
    share: float
    table_bytes: int
    bits_per_weight: float | None
    entropy_bits: float | None = None
    others: Mapping[str, int] = field(default_factory=dict)


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
        layout = layout_of(self.metadata)
        if layout is not None:
            summary["files of the folder"] = len(layout.files)
        summary |= {
            f"metadata {key}": str(value)
            for key, value in self.metadata.items()
            if key not in (FOLDER, HEADER)
        }
        rows: list[dict[str, Value]] = []
        for tensor in self.tensors:
            row = dataclasses.asdict(tensor)
            row["shape"] = "x".join(map(str, tensor.shape)) or "scalar"
            others = row.pop("others")
            if not any(t.others for t in self.tensors):
                del row["entropy_bits"]
            rows.append(row | {f"{kind} bytes": others.get(kind) for kind in self._kinds()})
        return Report(str(self.path), summary, rows)

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for tensor in self.tensors for kind in tensor.others))


def inspect(
    path: str | os.PathLike[str], *, codecs: bool = False, base: Base | None = None
) -> Inspection:
    """Look into a `.terse` file. Only densely stored tensors are decoded, for their density.

    Args:
        codecs: decode all tensors, for their entropy and for what other codecs would have taken.
        base: the tensors that the file was made against, if it was.

    Raises:
        FormatError: as `load`.
        FileNotFoundError: there is no such file.
    """
    with opened(path, base=base) as file:
        return Inspection(
            path=file.path,
            version=file.version,
            file_bytes=file.file_bytes,
            header_bytes=file.header_bytes,
            dense_bytes=file.header.dense_bytes,
            metadata=dict(file.header.metadata),
            tensors=tuple(_info(file, entry, codecs) for entry in file.header.entries),
        )


def _info(file: Opened, entry: Entry, codecs: bool) -> TensorInfo:
    source = file.header.source(entry)
    entropy: float | None = None
    others: dict[str, int] = {}
    if isinstance(entry, Repeated):
        codec = f"{'tied to' if entry.tied else 'same as'} {source.name}"
        stored = table = 0
    else:
        codec = str(entry)
        stored, table = entry.byte_length, sum(part.table_length for part in entry.parts)
        if codecs:
            words = to_words(file.tensor(entry))
            entropy, others = _entropy(words, source.weights), _costs(words, entry)
    return TensorInfo(
        name=entry.name,
        dtype=dtype_name(source.dtype),
        shape=source.shape,
        codec=codec,
        density=_density(file, source),
        stored_bytes=stored,
        share=stored / file.file_bytes,
        table_bytes=table,
        bits_per_weight=8 * stored / source.weights if source.weights else None,
        entropy_bits=entropy,
        others=others,
    )


def _density(file: Opened, entry: Stored) -> float | None:
    """Share of words that are not zero; of a difference, of those that differ."""
    if entry.count == 0:
        return None
    kept = 0
    for part, data in file.read(entry):
        if isinstance(part.codec.positions, Dense):
            kept += int(np.count_nonzero(decode(part.codec, data, part.grid)))
        else:
            kept += part.codec.positions.kept
    return kept / entry.count


def _entropy(words: Words, weights: int) -> float | None:
    if not weights:
        return None
    shares = np.unique(words, return_counts=True)[1] / len(words)
    return float(-(shares * np.log2(shares)).sum()) * len(words) / weights


_KINDS = ("byte planes", "raw", "packed", "Huffman", "rANS", "by context")


def _costs(words: Words, entry: Stored) -> dict[str, int]:
    """The least bytes of each kind of codec, summed over the parts."""
    total: dict[str, int] = {}
    begin = 0
    for part in entry.parts:
        here: dict[str, int] = {}
        piece = words[begin : begin + part.grid.count]
        for codec in (*candidates(piece, part.grid), *by_contexts(piece, part.grid)):
            kind = next(kind for kind in _KINDS if kind in str(codec.values))
            size = codec.byte_length(part.grid)
            here[kind] = min(size, here.get(kind, size))
        for kind, size in here.items():
            total[kind] = total.get(kind, 0) + size
        begin += part.grid.count
    return total

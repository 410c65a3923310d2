"""What a tensor costs: as the paper counts, and as the file weighs. Two numbers, never one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.store.choose import INDEX_BITS, huffman_bits
from tersor.store.container import opened
from tersor.store.entries import Repeated, Stored
from tersor.store.relative import gaps_of
from tersor.store.words import require_plain, to_words

_PLAIN_BITS = 32  # of an uncompressed weight and of a centroid, whatever the dtype: as the paper


@dataclass(frozen=True)
class PaperAccounting:
    """One layer in the columns of Deep Compression.

    Args:
        weights: all weights of the layer, n.
        kept: those that are not zero, a.
        fillers: entries without a weight, f; an entry is a kept weight or a filler.
        centroids: distinct kept values, k.
        value_bits, index_bits: fixed bits of an entry (P+Q).
        value_bits_huffman, index_bits_huffman: mean bits of an entry with Huffman (P+Q+H); the
            value code has FILLER as one symbol more.
    """

    weights: int
    kept: int
    fillers: int
    centroids: int
    value_bits: int
    index_bits: int
    value_bits_huffman: float
    index_bits_huffman: float

    @property
    def density(self) -> float:
        return self.kept / self.weights if self.weights else 0.0

    @property
    def entries(self) -> int:
        return self.kept + self.fillers

    @property
    def pq_bits(self) -> int:
        """(a + f) (b_w + b_i) + 32 k."""
        return self._bits(self.value_bits + self.index_bits)

    @property
    def pqh_bits(self) -> int:
        """Both Huffman streams + 32 k; code tables are not counted, as in the paper."""
        return self._bits(self.value_bits_huffman + self.index_bits_huffman)

    @property
    def pq_rate(self) -> float:
        """`pq_bits` in percent of 32 n."""
        return self._rate(self.pq_bits)

    @property
    def pqh_rate(self) -> float:
        """`pqh_bits` in percent of 32 n."""
        return self._rate(self.pqh_bits)

    def _bits(self, bits: float) -> int:
        return round(self.entries * bits) + _PLAIN_BITS * self.centroids

    def _rate(self, bits: int) -> float:
        return 100 * bits / (_PLAIN_BITS * self.weights) if self.weights else 0.0


def paper_accounting(tensor: Tensor, *, index_bits: int | None = None) -> PaperAccounting:
    """The cost of a pruned and shared tensor as Deep Compression counts it.

    Args:
        tensor: any plain tensor; what is not zero is kept.
        index_bits: width of the relative index, 1 to 16; None takes the one of 2 to 8 with the
            fewest bits without Huffman.

    Raises:
        ConfigError: `index_bits` is out of range, or the tensor is no plain one.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, tables 2 to 5. How the paper counts was
    reconstructed from their columns: fillers and codebooks are in, code tables and biases not. An
    index code holds a gap less one.

    >>> import torch
    >>> layer = paper_accounting(torch.tensor([[0.5, 0, 0, -0.5], [0, 0.5, 0.5, 0]]), index_bits=2)
    >>> layer.kept, layer.centroids, layer.pq_bits
    (4, 2, 76)
    """
    if index_bits is not None and not 1 <= index_bits <= 16:
        raise ConfigError(f"paper_accounting: index_bits {index_bits}, expected 1 to 16")
    words = to_words(require_plain(tensor))
    positions = np.flatnonzero(words)
    _, multiplicities = np.unique(words[positions], return_counts=True)
    k = len(multiplicities)
    value_bits = (k - 1).bit_length() if k else 0
    bits = index_bits or min(INDEX_BITS, key=lambda b: _entries(positions, b) * (value_bits + b))
    rest, spans = gaps_of(positions, bits, "gap1")
    fillers = int(spans.sum())
    index_counts = np.bincount(rest, minlength=1 << bits)
    index_counts[-1] += fillers
    entries = max(len(positions) + fillers, 1)
    return PaperAccounting(
        weights=len(words),
        kept=len(positions),
        fillers=fillers,
        centroids=k,
        value_bits=value_bits,
        index_bits=bits,
        value_bits_huffman=_huffman(np.append(multiplicities, fillers)) / entries,
        index_bits_huffman=_huffman(index_counts) / entries,
    )


def accounting(
    model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]
) -> Report:
    """The paper's columns and the file's bytes side by side, for each matrix and in total.

    Args:
        model_or_state_dict: what was saved.
        path: the `.terse` file it was saved to.

    Returns:
        One row per floating-point tensor of two or more sides, and one of all of them; the others
        (biases, normalisation) stand together, with the paper's 32 bits each; then the header. Tied
        tensors count once; a copy counts for the paper, and has no bytes in the file.

    Raises:
        ConfigError: the file has a tensor that the model has not.
        FormatError: the file is damaged.
    """
    state = (
        model_or_state_dict.state_dict()
        if isinstance(model_or_state_dict, nn.Module)
        else model_or_state_dict
    )
    layers: list[tuple[str, PaperAccounting, int]] = []
    others = other_bytes = 0
    with opened(path) as file:
        for entry in file.header.entries:
            if isinstance(entry, Repeated) and entry.tied:
                continue
            if entry.name not in state:
                raise ConfigError(f"accounting: {path} has {entry.name!r}, the model has not")
            tensor = state[entry.name]
            stored = entry.byte_length if isinstance(entry, Stored) else 0
            if tensor.ndim < 2 or not tensor.is_floating_point():
                others += tensor.numel()
                other_bytes += stored
                continue
            layers.append((entry.name, paper_accounting(tensor), stored))
    weights = sum(layer.weights for _, layer, _ in layers) + others
    pq = sum(layer.pq_bits for _, layer, _ in layers) + _PLAIN_BITS * others
    pqh = sum(layer.pqh_bits for _, layer, _ in layers) + _PLAIN_BITS * others
    rows = [_row(*layer) for layer in layers]
    if len(layers) > 1:
        rows.append(_total([layer for _, layer, _ in layers], sum(size for *_, size in layers)))
    rows.append({"name": "other tensors", "weights": others, "file bytes": other_bytes})
    rows.append({"name": "header", "file bytes": file.header_bytes})
    summary: dict[str, Value] = {
        "paper bytes, P+Q": (pq + 7) // 8,
        "paper bytes, P+Q+H": (pqh + 7) // 8,
        "file bytes": file.file_bytes,
        "paper ratio, P+Q": _ratio(weights, pq),
        "paper ratio, P+Q+H": _ratio(weights, pqh),
        "file ratio": _ratio(weights, 8 * file.file_bytes),
    }
    return Report("Paper and file", summary, rows)


def _row(name: str, layer: PaperAccounting, file_bytes: int) -> dict[str, Value]:
    return {
        "name": name,
        "weights": layer.weights,
        "kept %": 100 * layer.density,
        "value bits": layer.value_bits,
        "value bits H": layer.value_bits_huffman,
        "index bits": layer.index_bits,
        "index bits H": layer.index_bits_huffman,
        "P+Q %": layer.pq_rate,
        "P+Q+H %": layer.pqh_rate,
        "file %": 800 * file_bytes / (_PLAIN_BITS * layer.weights) if layer.weights else 0.0,
        "file bytes": file_bytes,
    }


def _total(layers: list[PaperAccounting], file_bytes: int) -> dict[str, Value]:
    """All layers together; bits are means over all entries, as the paper's last rows seem to be."""
    weights = sum(layer.weights for layer in layers)
    entries = max(sum(layer.entries for layer in layers), 1)

    def mean(bits: Callable[[PaperAccounting], float]) -> float:
        return sum(layer.entries * bits(layer) for layer in layers) / entries

    def rate(bits: float) -> float:
        return 100 * bits / (_PLAIN_BITS * weights) if weights else 0.0

    return {
        "name": "all matrices",
        "weights": weights,
        "kept %": 100 * sum(layer.kept for layer in layers) / weights if weights else 0.0,
        "value bits": mean(lambda layer: layer.value_bits),
        "value bits H": mean(lambda layer: layer.value_bits_huffman),
        "index bits": mean(lambda layer: layer.index_bits),
        "index bits H": mean(lambda layer: layer.index_bits_huffman),
        "P+Q %": rate(sum(layer.pq_bits for layer in layers)),
        "P+Q+H %": rate(sum(layer.pqh_bits for layer in layers)),
        "file %": rate(8 * file_bytes),
        "file bytes": file_bytes,
    }


def _entries(positions: NDArray[np.int64], bits: int) -> int:
    return len(positions) + int(gaps_of(positions, bits, "gap1")[1].sum())


def _huffman(counts: NDArray[np.int64]) -> int:
    return huffman_bits(counts.astype(np.uint64), max_length=32)


def _ratio(weights: int, bits: int) -> float | None:
    return _PLAIN_BITS * weights / bits if bits else None

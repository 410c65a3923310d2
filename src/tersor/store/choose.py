"""Which codec is the smallest for given words: all are tried, by exact sizes from histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tersor import _native
from tersor.store.codecs import (
    MAX_ALPHABET,
    MAX_HUFFMAN_ALPHABET,
    Codebook,
    Codec,
    Dense,
    Mask,
    Order,
    Raw,
    Relative,
    Values,
)
from tersor.store.relative import Convention, gaps_of
from tersor.store.streams import scan_of
from tersor.store.words import Grid, Words

Counts = NDArray[np.uint64]

INDEX_BITS = range(2, 9)
_SAMPLE = 1 << 18  # words looked at before all of a large tensor are sorted


def best(words: Words, grid: Grid) -> Codec:
    """The codec with the fewest bytes, of equals the simplest."""
    return min(candidates(words, grid), key=lambda codec: codec.byte_length(grid))


def candidates(
    words: Words, grid: Grid, *, conventions: Sequence[Convention] = ("gap1",)
) -> Iterator[Codec]:
    """Every codec that can represent these words, simple ones first."""
    histogram = _histogram(words)
    for values in _values(histogram, 0):
        yield Codec(Dense(), values)
    kept = int(np.count_nonzero(words))
    if kept == grid.count:
        return
    nonzero = None
    if histogram is not None:
        nonzero = histogram[1][histogram[0] != 0]
    for values in _values_of(nonzero, 0):
        yield Codec(Mask(kept), values)
    orders: list[Order] = ["row", "column"] if min(grid.rows, grid.columns) > 1 else ["row"]
    for order in orders:
        scan = scan_of(words, grid, order)[1]
        for convention in conventions:
            for bits in INDEX_BITS:
                rest, spans = gaps_of(scan, bits, convention)
                fillers = int(spans.sum())
                counts = np.bincount(rest, minlength=1 << bits).astype(np.uint64)
                counts[-1] += np.uint64(fillers)
                for values in _values_of(nonzero, fillers):
                    for huffman in (None, huffman_bytes(counts)):
                        positions = Relative(bits, kept, fillers, huffman, order, convention)
                        yield Codec(positions, values)


def huffman_bits(counts: Counts, max_length: int = 15) -> int:
    """Bits of a stream in which each symbol occurs so often, with an optimal code."""
    lengths = _native.huffman_lengths(counts, max_length)
    if np.count_nonzero(lengths) < 2:
        return 0
    return int((counts * lengths).sum())


def huffman_bytes(counts: Counts) -> int:
    """Bytes of that stream."""
    return (huffman_bits(counts) + 7) // 8


def _values(histogram: tuple[Words, Counts] | None, fillers: int) -> Iterator[Values]:
    return _values_of(None if histogram is None else histogram[1], fillers)


def _values_of(counts: Counts | None, fillers: int) -> Iterator[Values]:
    """The ways to say words that occur so often, with so many fillers among them."""
    yield Raw()
    if counts is None or not 0 < len(counts) <= MAX_ALPHABET - (fillers > 0):
        return
    yield Codebook(len(counts))
    if len(counts) + (fillers > 0) <= MAX_HUFFMAN_ALPHABET:
        symbols = np.append(counts, np.uint64(fillers)) if fillers else counts
        yield Codebook(len(counts), huffman_bytes(symbols))


def _histogram(words: Words) -> tuple[Words, Counts] | None:
    """The distinct words and how often they occur; None if they are too many for a codebook."""
    if words.itemsize <= 2:
        counts = np.bincount(words, minlength=1).astype(np.uint64)
        book: Words = np.flatnonzero(counts).astype(words.dtype)
        return book, counts[book]
    if len(words) > 2 * _SAMPLE and len(np.unique(words[:_SAMPLE])) > MAX_ALPHABET:
        return None
    book, multiplicities = np.unique(words, return_counts=True)
    return (book, multiplicities.astype(np.uint64)) if len(book) <= MAX_ALPHABET + 1 else None

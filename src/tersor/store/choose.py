"""Which codec is the smallest for given words: all are tried.

Sizes come from histograms, exact or (rANS) to within a few bytes. What the context coder takes is
known only when it has coded, so it codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tersor import _native
from tersor.store.codecs import (
    MAX_ALPHABET,
    MAX_CONTEXT_ALPHABET,
    MAX_HUFFMAN_ALPHABET,
    MAX_RANS_ALPHABET,
    Codebook,
    Codec,
    Dense,
    Map,
    Mask,
    Order,
    Planes,
    Positions,
    Raw,
    Relative,
    Values,
)
from tersor.store.relative import Convention, gaps_of
from tersor.store.streams import encode, encode_codes, encode_map, encode_planes, scan_of
from tersor.store.words import Grid, Words

Counts = NDArray[np.uint64]

INDEX_BITS = range(2, 9)
_SAMPLE = 1 << 18  # words looked at before all of a large tensor are sorted
_SAMPLE_PLANES = 1 << 15  # words at either end that decide how byte planes are made
_FARTHEST = 256  # columns that a lag is looked for in
_SMALL = 1 << 16  # words up to which every byte counts more than the time to read them


def encoded(words: Words, grid: Grid, *, fast: bool = False) -> tuple[Codec, bytes]:
    """The codec with the fewest bytes, of equals the simplest, and its streams.

    Args:
        fast: leave the context coder out, which takes about 40 ns a bit.
    """
    best = min(candidates(words, grid), key=lambda codec: codec.byte_length(grid))
    if not fast and _may_gain(words, grid):
        by_context = min(
            by_contexts(words, grid), key=lambda codec: codec.byte_length(grid), default=best
        )
        if by_context.byte_length(grid) < _least(grid) * best.byte_length(grid):
            best = by_context
    return encode(best, words, grid)


def _may_gain(words: Words, grid: Grid) -> bool:
    """Whether contexts gain on the first rows of a large grid; of a small one all is tried."""
    if grid.count <= 4 * _SMALL:
        return True
    first = _first_rows(grid)
    part = words[: first.count]
    sizes = [codec.byte_length(first) for codec in candidates(part, first)]
    by_context = (codec.byte_length(first) for codec in by_contexts(part, first, lags=False))
    return any(size < _least(grid) * min(sizes) for size in by_context)


def _first_rows(grid: Grid) -> Grid:
    """Some rows of a large grid, that stand for all of it."""
    return replace(grid, rows=max(_SMALL // grid.columns, 1))


def _least(grid: Grid) -> float:
    """What is large is also to be read fast: there contexts have to gain something."""
    return 1.0 if grid.count <= _SMALL else 0.99


def candidates(
    words: Words, grid: Grid, *, conventions: Sequence[Convention] = ("gap1",)
) -> Iterator[Codec]:
    """Every codec without contexts that can represent these words, simple ones first."""
    histogram = _histogram(words)
    for values in _values_of(words, None if histogram is None else histogram[1]):
        yield Codec(Dense(), values)
    kept = int(np.count_nonzero(words))
    if kept == grid.count:
        return
    nonzero = None if histogram is None else histogram[1][histogram[0] != 0]
    entries = words[words != 0]
    without_fillers = list(_values_of(entries, nonzero))
    for values in without_fillers:
        yield Codec(Mask(kept), values)
    if 2 * kept > grid.count:
        return  # an index takes 2 bits an entry and more, a mask 1 bit a word
    orders: list[Order] = ["row", "column"] if min(grid.rows, grid.columns) > 1 else ["row"]
    planes = [values for values in without_fillers if isinstance(values, Planes)]
    octets = _octet_counts(entries, planes[0].rotate) if planes else None
    for order in orders:
        scan = scan_of(words, grid, order)[1]
        for convention in conventions:
            for bits in INDEX_BITS:
                rest, spans = gaps_of(scan, bits, convention)
                fillers = int(spans.sum())
                counts = np.bincount(rest, minlength=1 << bits).astype(np.uint64)
                counts[-1] += np.uint64(fillers)
                codings: list[tuple[int | None, int | None]] = [(None, None)]
                codings.append((huffman_bytes(counts), None))
                codings.append((None, _native.rans_estimate(counts) if kept + fillers else 0))
                choices = without_fillers
                if fillers:
                    choices = [Raw(), *_codebooks(nonzero, fillers)]
                    if octets is not None:
                        choices.append(_planes_with_fillers(octets, planes[0].rotate, fillers))
                for values in choices:
                    for huffman, rans in codings:
                        positions = Relative(bits, kept, fillers, huffman, rans, order, convention)
                        yield Codec(positions, values)


def by_contexts(words: Words, grid: Grid, *, lags: bool = True) -> Iterator[Codec]:
    """The codecs with contexts that can represent these words.

    Args:
        lags: look for neighbours that are further away, too.
    """
    histogram = _histogram(words)
    where = words != 0
    kept = int(np.count_nonzero(where))
    tried = _lags(where, grid) if lags else [0]
    book = None  # the distinct words, where they are few enough for contexts
    if histogram is not None and 1 < len(histogram[0]) <= MAX_CONTEXT_ALPHABET:
        book = histogram[0]
    if book is not None and 4 * kept > grid.count:  # else a map says better where the zeros are
        yield Codec(Dense(), _by_context(book, words, None, grid, tried))
    if not 0 < kept < grid.count:
        return
    entries = words[where]
    nonzero = None if histogram is None else histogram[1][histogram[0] != 0]
    values = list(_values_of(entries, nonzero))
    if book is not None:
        values.append(_by_context(book[book != 0], entries, where, grid, tried))
    maps = [Map(kept, len(encode_map(where, grid, lag)), lag) for lag in tried]
    places: list[Positions] = [min(maps, key=lambda places: places.bytes), Mask(kept)]
    for positions in places:
        for coded in values:
            yield Codec(positions, coded)


def _by_context(
    book: Words, entries: Words, where: NDArray[np.bool_] | None, grid: Grid, lags: Sequence[int]
) -> Codebook:
    codes = np.searchsorted(book, entries).astype(np.uint16)
    size, lag = min((len(encode_codes(codes, len(book), where, grid, lag)), lag) for lag in lags)
    return Codebook(len(book), context=size, lag=lag)


def _lags(where: NDArray[np.bool_], grid: Grid) -> list[int]:
    """Distances in a row at which neighbours may be: none, the kernel, and where most pairs are."""
    lags = [0, grid.kernel] if grid.kernel > 1 else [0]
    rows = max(min(grid.rows, _SAMPLE // max(grid.columns, 1)), 1)
    sample = where.reshape(grid.rows, grid.columns)[:rows]
    most = min(grid.columns // 2, _FARTHEST)
    if rows * most < 2:
        return lags
    pairs = np.array(
        [
            np.count_nonzero(sample[:, far:] & sample[:, :-far]) / (grid.columns - far)
            for far in range(1, most)
        ]
    )
    best = int(pairs[2:].argmax()) + 3 if len(pairs) > 2 else 0
    if best and pairs[best - 1] > 1.1 * np.median(pairs):
        lags.append(best)
    if grid.count > 4 * _SMALL:  # of a large grid the first rows decide
        first = _first_rows(grid)
        part = where[: first.count]
        return [min(lags, key=lambda lag: len(encode_map(part, first, lag)))]
    return list(dict.fromkeys(lags))


def huffman_bits(counts: Counts, max_length: int = 15) -> int:
    """Bits of a stream in which each symbol occurs so often, with an optimal code."""
    lengths = _native.huffman_lengths(counts, max_length)
    if np.count_nonzero(lengths) < 2:
        return 0
    return int((counts * lengths).sum())


def huffman_bytes(counts: Counts) -> int:
    """Bytes of that stream."""
    return (huffman_bits(counts) + 7) // 8


def _values_of(words: Words, counts: Counts | None) -> Iterator[Values]:
    """The ways to say these words, of which the distinct ones occur so often."""
    yield Raw()
    if len(words) > 1 and not _are_few(words, counts):
        rotate = _is_shorter_rotated(words)
        yield Planes(encode_planes(words, rotate)[0], rotate)
    # Of bytes the highest plane is all there is: the same streams, without a codebook to look up.
    large = words.itemsize == 1 and len(words) > _SMALL
    yield from (v for v in _codebooks(counts, 0) if not (large and v.rans is not None))


def _are_few(words: Words, counts: Counts | None) -> bool:
    """Whether a codebook is sure to be shorter than byte planes, which need not be tried then."""
    if counts is None or words.itemsize == 1:
        return False
    return len(counts) <= MAX_RANS_ALPHABET and 64 * len(counts) < len(words)


def _octet_counts(words: Words, rotate: bool) -> Counts:
    """(bytes a word, 256): how often each byte is in each plane, the highest plane first."""
    kind = words.dtype.type
    turned = words << kind(1) | words >> kind(8 * words.itemsize - 1) if rotate else words
    shifts = [kind(8 * k) for k in reversed(range(words.itemsize))]
    counts = [np.bincount((turned >> k).astype(np.uint8), minlength=256) for k in shifts]
    return np.stack(counts).astype(np.uint64)


def _planes_with_fillers(octets: Counts, rotate: bool, fillers: int) -> Planes:
    """Byte planes of words with so many bytes, and so many zero words among them."""
    lengths = []
    for plane in octets:
        counts = plane.copy()
        counts[0] += np.uint64(fillers)
        total = int(counts.sum())
        used = counts[counts > 0]
        if float((used * np.log2(total / used)).sum()) / 8 + 129 >= total:
            lengths.append(0)  # its entropy and the shortest table are too long already
            continue
        length = _native.rans_estimate(counts)
        lengths.append(length if length < total - (total // 64 if total >= _SMALL else 0) else 0)
    return Planes(tuple(lengths), rotate)


def _codebooks(counts: Counts | None, fillers: int) -> Iterator[Codebook]:
    if counts is None or not 0 < len(counts) <= MAX_ALPHABET - (fillers > 0):
        return
    size = len(counts)
    yield Codebook(size)
    symbols = np.append(counts, np.uint64(fillers)) if fillers else counts
    if len(symbols) <= MAX_HUFFMAN_ALPHABET:
        yield Codebook(size, huffman=huffman_bytes(symbols))
    if len(symbols) <= MAX_RANS_ALPHABET:
        yield Codebook(size, rans=_native.rans_estimate(symbols))


def _is_shorter_rotated(words: Words) -> bool:
    """Whether byte planes are shorter with the words turned left by one bit, by a sample."""
    sample = np.concatenate([words[:_SAMPLE_PLANES], words[-_SAMPLE_PLANES:]])
    plain, rotated = (len(encode_planes(sample, rotate)[1]) for rotate in (False, True))
    return rotated < plain


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

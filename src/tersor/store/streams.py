"""Words to the bytes of a codec's streams and back.

The streams of a tensor follow each other without a hole:
positions [mask | map | index code lengths, index codes],
values [words | planes | codebook, code lengths, codes].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tersor import _native
from tersor.core.errors import FormatError
from tersor.store.codecs import (
    Codec,
    Dense,
    Lengths,
    Map,
    Mask,
    Order,
    Planes,
    Raw,
    Relative,
    table_bytes,
)
from tersor.store.codecs import Positions as AnyPositions
from tersor.store.codecs import Values as AnyValues
from tersor.store.part_entries import Entries
from tersor.store.relative import Positions, codes_of, positions_of
from tersor.store.words import Grid, Words

Codes = NDArray[np.uint16]


def encode(codec: Codec, words: Words, grid: Grid) -> tuple[Codec, bytes]:
    """The streams of `words`, which this codec must be able to represent.

    Returns:
        The codec with the true lengths of its streams, and the streams.
    """
    positions, places, entries, fillers, where = _encode_positions(codec.positions, words, grid)
    values, data = _encode_values(codec.values, entries, fillers, where, grid)
    return Codec(positions, values), places + data


def _encode_positions(
    positions: AnyPositions, words: Words, grid: Grid
) -> tuple[AnyPositions, bytes, Words, NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """Positions with true lengths, their stream, the entries, which are fillers, where they are."""
    match positions:
        case Dense():
            return positions, b"", words, None, None
        case Mask():
            bits = words != 0
            packed = np.packbits(bits, bitorder="little").tobytes()
            return positions, packed, words[bits], None, bits
        case Map():
            bits = words != 0
            stream = encode_map(bits, grid, positions.lag)
            return replace(positions, bytes=len(stream)), stream, words[bits], None, bits
        case Relative(bits=width, order=order, convention=convention):
            flat, scan = scan_of(words, grid, order)
            codes, fillers = codes_of(scan, width, convention)
            entries = np.zeros(len(codes), words.dtype)
            entries[~fillers] = words[flat]
            if positions.rans is not None:
                stream = _native.rans_encode(codes, 1 << width).tobytes()
                return replace(positions, rans=len(stream)), stream, entries, fillers, None
            stream = _encode_codes(codes, width, 1 << width, positions.huffman is not None)
            return positions, stream, entries, fillers, None


def _encode_values(
    values: AnyValues,
    entries: Words,
    fillers: NDArray[np.bool_] | None,
    where: NDArray[np.bool_] | None,
    grid: Grid,
) -> tuple[AnyValues, bytes]:
    little = entries.dtype.newbyteorder("<")
    if isinstance(values, Raw):
        return values, entries.astype(little).tobytes()
    if isinstance(values, Planes):
        lengths, stream = encode_planes(entries, values.rotate)
        return replace(values, lengths=lengths), stream
    kept = entries if fillers is None else entries[~fillers]
    book = np.unique(kept)
    symbols = np.searchsorted(book, entries).astype(np.uint16)
    has_fillers = fillers is not None and bool(fillers.any())
    if fillers is not None:
        symbols[fillers] = len(book)
    alphabet, width = values.alphabet(has_fillers), values.width(has_fillers)
    table = book.astype(little).tobytes()
    if values.context is not None:
        stream = encode_codes(symbols, alphabet, where, grid, values.lag)
        return replace(values, context=len(stream)), table + stream
    if values.rans is not None:
        stream = _native.rans_encode(symbols, alphabet).tobytes()
        return replace(values, rans=len(stream)), table + stream
    return values, table + _encode_codes(symbols, width, alphabet, values.huffman is not None)


def encode_map(bits: NDArray[np.bool_], grid: Grid, lag: int) -> bytes:
    """The context stream that says which places are True."""
    places = bits.view(np.uint8)
    return _native.map_encode(places, grid.rows, grid.columns, grid.kernel, lag).tobytes()


def encode_codes(
    symbols: Codes, alphabet: int, where: NDArray[np.bool_] | None, grid: Grid, lag: int
) -> bytes:
    """The context stream of the codes at the places that are True; None = all of them."""
    places = np.ones(grid.count, np.uint8) if where is None else where.view(np.uint8)
    stream = _native.codes_encode(symbols, alphabet, places, grid.rows, grid.columns, lag)
    return stream.tobytes()


def encode_planes(words: Words, rotate: bool) -> tuple[Lengths, bytes]:
    """The byte planes of words, and the length of each, 0 = as it is."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    stream, lengths = _native.planes_encode(octets, words.itemsize, rotate)
    return tuple(lengths.tolist()), stream.tobytes()


def decode(codec: Codec, data: bytes, grid: Grid) -> Words:
    """The words of these streams, in memory of their own.

    Raises:
        FormatError: the streams are not what the codec says, or the words cannot be allocated.
    """
    with _refusing(codec, data, grid):
        if isinstance(codec.positions, Dense):
            return _decode(codec, data, grid).words
        # The result first: nothing that the file claims makes anything larger than it.
        words = np.zeros(grid.count, f"u{grid.word_size}")
        entries = _decode(codec, data, grid)
        words[entries.places] = entries.words
        return words


def decode_entries(codec: Codec, data: bytes, grid: Grid) -> Entries:
    """The entries of these streams by row, in memory of their own.

    Raises:
        FormatError: as `decode`.
    """
    with _refusing(codec, data, grid):
        return _decode(codec, data, grid).by_row()


def scan_of(words: Words, grid: Grid, order: Order) -> tuple[Positions, Positions]:
    """Where words are not zero, as the scan meets them: row-major index, place in the scan."""
    flat = np.flatnonzero(words)
    if order == "row":
        return flat, flat
    row, column = np.divmod(flat, grid.columns)
    scan = column * grid.rows + row
    places = np.argsort(scan)
    return flat[places], scan[places]


def _encode_codes(codes: Codes, width: int, alphabet: int, huffman: bool) -> bytes:
    if huffman:
        counts = np.bincount(codes, minlength=alphabet).astype(np.uint64)
        lengths = _native.huffman_lengths(counts)
        table = _native.pack_bits(lengths.astype(np.uint16), 4)
        return table.tobytes() + _native.huffman_encode(codes, lengths).tobytes()
    return _native.pack_bits(codes, width).tobytes() if width else b""


@contextlib.contextmanager
def _refusing(codec: Codec, data: bytes, grid: Grid) -> Iterator[None]:
    """Check the lengths, and make whatever is wrong with the streams a FormatError."""
    codec.check(grid)
    if len(data) != codec.byte_length(grid):
        raise FormatError(f"streams of {len(data)} bytes, expected {codec.byte_length(grid)}")
    try:
        yield
    except _native.FormatError as error:
        raise FormatError(str(error)) from None
    except (MemoryError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        size = grid.count * grid.word_size
        raise FormatError(f"{size} bytes cannot be allocated ({error})") from error


def _decode(codec: Codec, data: bytes, grid: Grid) -> Entries:
    """The entries in the order of their scan."""
    reader = _Reader(data)
    positions = codec.positions
    if isinstance(positions, Dense):
        values, book, _ = _decode_values(codec, reader, grid.count, grid, None)
        return Entries(grid, None, values, book)
    if isinstance(positions, Mask | Map):
        mask = _decode_mask(positions, reader, grid)
        if np.count_nonzero(mask) != positions.kept:
            raise FormatError(f"mask of {np.count_nonzero(mask)} words, expected {positions.kept}")
        values, book, _ = _decode_values(codec, reader, positions.kept, grid, mask)
        return Entries(grid, mask, values, book)
    entries = positions.entries(grid)
    codes = _decode_codes(
        reader, entries, positions.bits, 1 << positions.bits, positions.huffman, positions.rans
    )
    values, book, fillers = _decode_values(codec, reader, entries, grid, None)
    if np.count_nonzero(fillers) != positions.fillers:
        raise FormatError(f"{np.count_nonzero(fillers)} fillers, expected {positions.fillers}")
    flat = positions_of(codes, fillers, positions.bits, positions.convention, grid.count)
    if positions.order == "column":
        column, row = np.divmod(flat, max(grid.rows, 1))
        flat = row * grid.columns + column
    return Entries(grid, flat, values[~fillers] if positions.fillers else values, book)


def _decode_mask(positions: Mask | Map, reader: _Reader, grid: Grid) -> NDArray[np.bool_]:
    data = np.frombuffer(reader.take(positions.byte_length(grid)), np.uint8)
    if isinstance(positions, Map):
        places = np.empty(grid.count, np.uint8)
        _native.map_decode(data, grid.rows, grid.columns, grid.kernel, positions.lag, places)
        return places.view(np.bool_)
    mask = np.unpackbits(data, bitorder="little").view(np.bool_)
    if np.any(mask[grid.count :]):
        raise FormatError("padding after the mask is not zero")
    return mask[: grid.count]


def _decode_values(
    codec: Codec,
    reader: _Reader,
    entries: int,
    grid: Grid,
    mask: NDArray[np.bool_] | None,
) -> tuple[Words | Codes, Words | None, NDArray[np.bool_]]:
    """The word of each entry, or its code and the codebook, and which entries are fillers.

    Args:
        mask: where the entries are; None = it is not needed, or everywhere.
    """
    dtype = np.dtype(f"u{grid.word_size}")
    little = dtype.newbyteorder("<")
    sparse = not isinstance(codec.positions, Dense)
    fillers = codec.positions.fillers
    if isinstance(codec.values, Raw | Planes):
        if isinstance(codec.values, Raw):
            data = reader.take(entries * dtype.itemsize)
            words = np.frombuffer(data, little).astype(dtype)
        else:
            lengths = codec.values.lengths
            data = reader.take(codec.values.byte_length(entries, fillers, dtype.itemsize))
            words = np.empty(entries, dtype)
            sizes = np.array(lengths, np.uint64)
            _native.planes_decode(data, sizes, codec.values.rotate, words.view(np.uint8))
        zeros = words == 0 if sparse else np.zeros(0, np.bool_)
        if sparse and np.count_nonzero(zeros) != fillers:
            raise FormatError(f"{np.count_nonzero(zeros)} words are zero, expected {fillers}")
        return words, None, zeros
    size = codec.values.size
    book = np.frombuffer(reader.take(size * dtype.itemsize), little).astype(dtype)
    if np.any(book[1:] <= book[:-1]) or (sparse and book[0] == 0):
        raise FormatError("the codebook does not ascend, or has a zero that it should not have")
    alphabet = codec.values.alphabet(fillers)
    if codec.values.context is not None:
        places = np.ones(grid.count, np.uint8) if mask is None else mask.view(np.uint8)
        codes = _native.codes_decode(
            reader.take(codec.values.context),
            alphabet,
            places,
            grid.rows,
            grid.columns,
            codec.values.lag,
            entries,
        )
    else:
        width = codec.values.width(fillers)
        codes = _decode_codes(
            reader, entries, width, alphabet, codec.values.huffman, codec.values.rans
        )
    if len(codes) and codes.max() >= alphabet:
        raise FormatError(f"code {codes.max()}, but the codebook has {size} entries")
    # The code of a filler is one more than the codebook has words.
    return codes, book, codes == size if fillers else np.zeros(len(codes), np.bool_)


def _decode_codes(
    reader: _Reader,
    count: int,
    width: int,
    alphabet: int,
    huffman: int | None,
    rans: int | None,
) -> Codes:
    if rans is not None:
        return _native.rans_decode(reader.take(rans), alphabet, count)
    if huffman is not None:
        table = _native.unpack_bits(reader.take(table_bytes(alphabet)), 4, alphabet)
        lengths = table.astype(np.uint8)
        return _native.huffman_decode(reader.take(huffman), lengths, count)
    if width == 0:
        return np.zeros(count, np.uint16)
    return _native.unpack_bits(reader.take((count * width + 7) // 8), width, count)


class _Reader:
    """Streams one after the other; that all lengths add up was checked before."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._next = 0

    def take(self, size: int) -> memoryview:
        self._next += size
        return self._data[self._next - size : self._next]

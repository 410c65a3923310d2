"""Words to the bytes of a codec's streams and back.

The streams of a tensor follow each other without a hole:
positions [mask | index code lengths, index codes], values [words | codebook, code lengths, codes].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersor import _native
from tersor.core.errors import FormatError
from tersor.store.codecs import Codebook, Codec, Dense, Mask, Order, Relative, table_bytes
from tersor.store.relative import Positions, codes_of, positions_of
from tersor.store.words import Grid, Words

Codes = NDArray[np.uint16]


def encode(codec: Codec, words: Words, grid: Grid) -> bytes:
    """The streams of `words`, which this codec must be able to represent."""
    parts: list[bytes] = []
    match codec.positions:
        case Dense():
            entries, fillers = words, None
        case Mask():
            bits = words != 0
            parts.append(np.packbits(bits, bitorder="little").tobytes())
            entries, fillers = words[bits], None
        case Relative(bits=width, huffman=huffman, order=order, convention=convention):
            flat, scan = scan_of(words, grid, order)
            codes, fillers = codes_of(scan, width, convention)
            parts.append(_encode_codes(codes, width, 1 << width, huffman is not None))
            entries = np.zeros(len(codes), words.dtype)
            entries[~fillers] = words[flat]
    little = words.dtype.newbyteorder("<")
    if isinstance(codec.values, Codebook):
        kept = entries if fillers is None else entries[~fillers]
        book = np.unique(kept)
        symbols = np.searchsorted(book, entries).astype(np.uint16)
        if fillers is not None:
            symbols[fillers] = len(book)
        parts.append(book.astype(little).tobytes())
        alphabet = codec.values.alphabet(codec.positions.fillers)
        width = codec.values.width(codec.positions.fillers)
        parts.append(_encode_codes(symbols, width, alphabet, codec.values.huffman is not None))
    else:
        parts.append(entries.astype(little).tobytes())
    return b"".join(parts)


def decode(codec: Codec, data: bytes, grid: Grid) -> Words:
    """The words of these streams, in memory of their own.

    Raises:
        FormatError: the streams are not what the codec says, or the words cannot be allocated.
    """
    codec.check(grid)
    if len(data) != codec.byte_length(grid):
        raise FormatError(f"streams of {len(data)} bytes, expected {codec.byte_length(grid)}")
    try:
        return _decode(codec, data, grid)
    except _native.FormatError as error:
        raise FormatError(str(error)) from None
    except (MemoryError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        size = grid.count * grid.word_size
        raise FormatError(f"{size} bytes cannot be allocated ({error})") from error


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


def _decode(codec: Codec, data: bytes, grid: Grid) -> Words:
    reader = _Reader(data)
    dtype = np.dtype(f"u{grid.word_size}")
    positions = codec.positions
    if isinstance(positions, Dense):
        return _decode_values(codec, reader, grid.count, dtype)[0]
    # The result first: nothing that the file claims makes anything larger than it.
    words = np.zeros(grid.count, dtype)
    if isinstance(positions, Mask):
        bits = np.frombuffer(reader.take(positions.byte_length(grid)), np.uint8)
        mask = np.unpackbits(bits, bitorder="little").view(np.bool_)
        if np.any(mask[grid.count :]):
            raise FormatError("padding after the mask is not zero")
        mask = mask[: grid.count]
        if np.count_nonzero(mask) != positions.kept:
            raise FormatError(f"mask of {np.count_nonzero(mask)} words, expected {positions.kept}")
        words[mask] = _decode_values(codec, reader, positions.kept, dtype)[0]
        return words
    entries = positions.entries(grid)
    codes = _decode_codes(reader, entries, positions.bits, 1 << positions.bits, positions.huffman)
    values, fillers = _decode_values(codec, reader, entries, dtype)
    if np.count_nonzero(fillers) != positions.fillers:
        raise FormatError(f"{np.count_nonzero(fillers)} fillers, expected {positions.fillers}")
    scan = positions_of(codes, fillers, positions.bits, positions.convention, grid.count)
    if positions.order == "column":
        column, row = np.divmod(scan, max(grid.rows, 1))
        scan = row * grid.columns + column
    words[scan] = values[~fillers]
    return words


def _decode_values(
    codec: Codec, reader: _Reader, entries: int, dtype: np.dtype[np.unsignedinteger]
) -> tuple[Words, NDArray[np.bool_]]:
    """The word of each entry, and which entries are fillers."""
    little = dtype.newbyteorder("<")
    sparse = not isinstance(codec.positions, Dense)
    fillers = codec.positions.fillers
    if not isinstance(codec.values, Codebook):
        words = np.frombuffer(reader.take(entries * dtype.itemsize), little).astype(dtype)
        zeros = words == 0
        if sparse and np.count_nonzero(zeros) != fillers:
            raise FormatError(f"{np.count_nonzero(zeros)} words are zero, expected {fillers}")
        return words, zeros
    size = codec.values.size
    book = np.frombuffer(reader.take(size * dtype.itemsize), little).astype(dtype)
    if np.any(book[1:] <= book[:-1]) or (sparse and book[0] == 0):
        raise FormatError("the codebook does not ascend, or has a zero that it should not have")
    codes = _decode_codes(
        reader,
        entries,
        codec.values.width(fillers),
        codec.values.alphabet(fillers),
        codec.values.huffman,
    )
    is_filler = codes == size
    if len(codes) and codes.max() >= codec.values.alphabet(fillers):
        raise FormatError(f"code {codes.max()}, but the codebook has {size} entries")
    if fillers == 0:
        return book[codes], is_filler
    return np.append(book, dtype.type(0))[codes], is_filler


def _decode_codes(
    reader: _Reader, count: int, width: int, alphabet: int, huffman: int | None
) -> Codes:
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
        self._data = data
        self._next = 0

    def take(self, size: int) -> bytes:
        self._next += size
        return self._data[self._next - size : self._next]

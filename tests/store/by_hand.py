"""Files put together byte by byte, with the right checksums whatever else is wrong in them."""

import io
import json
import re
import zlib
from dataclasses import replace

from tersor.store.choose import by_contexts, candidates
from tersor.store.container import Writer
from tersor.store.entries import Header, Part, Stored
from tersor.store.header import DICTIONARY
from tersor.store.streams import encode
from tersor.store.words import grid, to_words

PREAMBLE = 16


def build(header, streams=b"", *, version=2, flags=0, raw=None):
    """A file with this header (a JSON value, or `raw` bytes) and these streams.

    Of version 1 the header comes first, of all others last.
    """
    text = json.dumps(header, separators=(",", ":")).encode() if raw is None else raw
    start = b"\x89TERSE" + bytes([version, flags]) + len(text).to_bytes(4, "little")
    start += zlib.crc32(text, zlib.crc32(start)).to_bytes(4, "little")
    return start + (text + streams if version == 1 else streams + text)


def deflate(text, *, version=2):
    """A header as it is deflated in a file of this version."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_before(version))
    return squeezer.compress(text) + squeezer.flush()


def header_place(data):
    """Where the stored header of a file begins, and where it ends."""
    length = int.from_bytes(data[8:12], "little")
    begin = PREAMBLE if data[6] == 1 else len(data) - length
    return begin, begin + length


def split(data):
    """Header as plain data, and all streams, of a good file."""
    begin, end = header_place(data)
    text = data[begin:end]
    if data[7] & 1:
        text = zlib.decompressobj(-15, _before(data[6])).decompress(text)
    return json.loads(text), data[PREAMBLE:begin] + data[end:]


def one(streams=b"", *, version=2, **entry):
    """A file with one tensor, `w`; the checksum is put in where it is missing."""
    entry = {"name": "w", "dtype": "float32", "shape": [4]} | entry
    if "parts" not in entry:
        entry.setdefault("crc", zlib.crc32(streams))
    return build({"tensors": [entry]}, streams, version=version)


def codec_of(tensor, pattern, *, lag=None):
    """The first codec for this tensor whose description matches all of `pattern`.

    Args:
        lag: of what is told by contexts, instead of the best one.
    """
    words, lattice = to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))
    for codec in (*candidates(words, lattice), *by_contexts(words, lattice)):
        if re.fullmatch(pattern, re.sub(", lag [0-9]+", "", str(codec))):
            return codec if lag is None else with_lag(codec, lag)
    raise AssertionError(f"no codec is {pattern!r}")


def with_lag(codec, lag):
    """The same codec, contexts looking so many columns back; its lengths are not true any more."""
    positions, values = codec.positions, codec.values
    if hasattr(positions, "lag"):
        positions = replace(positions, lag=lag)
    if getattr(values, "context", None) is not None:
        values = replace(values, lag=lag)
    return replace(codec, positions=positions, values=values)


def file_of(tensors, repeated=(), metadata=None):
    """A file of version 2 with these tensors, each given as (name, tensor, codec)."""
    file = io.BytesIO()
    writer = Writer(file)
    entries = []
    for name, tensor, codec in tensors:
        lattice = grid(tensor.dtype, tuple(tensor.shape))
        true, data = encode(codec, to_words(tensor), lattice)
        writer.stream(data)
        part = Part(lattice, true, zlib.crc32(data))
        entries.append(Stored(name, tensor.dtype, tuple(tensor.shape), (part,)))
    writer.finish(Header([*entries, *repeated], metadata or {}))
    return file.getvalue()


def _before(version):
    """What a deflated header may refer to before itself."""
    return b"" if version == 1 else DICTIONARY

"""Files put together byte by byte, with the right checksums whatever else is wrong in them."""

import json
import zlib


def build(header, streams=b"", *, version=1, flags=0, raw=None):
    """A file with this header (a JSON value, or `raw` bytes) and these streams."""
    text = json.dumps(header, separators=(",", ":")).encode() if raw is None else raw
    start = b"\x89TERSE" + bytes([version, flags]) + len(text).to_bytes(4, "little")
    crc = zlib.crc32(text, zlib.crc32(start))
    return start + crc.to_bytes(4, "little") + text + streams


def split(data):
    """Header as plain data, and all streams, of a good file."""
    length = int.from_bytes(data[8:12], "little")
    text = data[16 : 16 + length]
    if data[7] & 1:
        text = zlib.decompress(text, wbits=-15)
    return json.loads(text), data[16 + length :]


def one(streams=b"", **entry):
    """A file with one tensor, `w`; the checksum is put in where it is missing."""
    entry = {"name": "w", "dtype": "float32", "shape": [4]} | entry
    entry.setdefault("crc", zlib.crc32(streams))
    return build({"tensors": [entry]}, streams)

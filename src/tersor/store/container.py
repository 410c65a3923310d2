"""The bytes around the tensors: preamble, header, streams, and not a byte more.

0   6  magic 89 54 45 52 53 45, "TERSE" after a byte that is no text
6   1  version, 1
7   1  flags: bit 0 = the header is deflated; the others are 0
8   4  length of the stored header, little endian like all numbers
12  4  CRC-32 of bytes 0 to 11 and the stored header
16     header, then the streams of the tensors in the header's order
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from tersor.core.errors import FormatError
from tersor.core.files import replacing
from tersor.store.header import Header, Stored, dump, parse
from tersor.store.streams import decode
from tersor.store.words import from_words

MAGIC = b"\x89TERSE"
VERSION = 1
PREAMBLE = 16
_DEFLATED = 1


def write(path: str | os.PathLike[str], header: Header, streams: Iterable[bytes]) -> int:
    """Write a file, whole or not at all.

    Args:
        streams: those of the stored entries, in their order.

    Returns:
        The bytes before the streams.

    Raises:
        ConfigError: the header cannot be written down.
        StorageError: the disk refuses it.
    """
    stored, deflated = dump(header)
    start = MAGIC + bytes([VERSION, _DEFLATED if deflated else 0])
    start += len(stored).to_bytes(4, "little")
    crc = zlib.crc32(stored, zlib.crc32(start))
    with replacing(path) as file:
        file.write(start + crc.to_bytes(4, "little") + stored)
        for stream in streams:
            file.write(stream)
    return PREAMBLE + len(stored)


@dataclass(frozen=True)
class Opened:
    """A file whose header is read and whose length fits to it.

    Args:
        header_bytes: where the streams begin.
        file_bytes: length of the file.
    """

    path: Path
    header: Header
    header_bytes: int
    file_bytes: int
    _file: BinaryIO
    _offsets: Mapping[str, int]

    def tensor(self, entry: Stored) -> Tensor:
        """The tensor of one entry, decoded alone.

        Raises:
            FormatError: its streams are damaged, or it cannot be allocated.
        """
        try:
            self._file.seek(self._offsets[entry.name])
            data = self._file.read(entry.byte_length)
            crc = zlib.crc32(data)
            if crc != entry.crc:
                raise FormatError(f"checksum {crc:08x}, expected {entry.crc:08x}")
            return from_words(decode(entry.codec, data, entry.grid), entry.dtype, entry.shape)
        except FormatError as error:
            raise self.error(error, entry) from error

    def error(self, what: object, entry: Stored) -> FormatError:
        """An error about one tensor of this file."""
        return FormatError(f"{self.path}, tensor {entry.name!r}: {what}. Nothing was loaded")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Opened]:
    """Open a file and check all but its streams.

    Raises:
        FormatError: it is no `.terse` file, a newer one, or damaged.
        FileNotFoundError: there is none.
    """
    path = Path(path)
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            header, header_bytes = _read_header(file, file_bytes)
            offsets: dict[str, int] = {}
            end = header_bytes
            for entry in header.entries:
                if isinstance(entry, Stored):
                    offsets[entry.name] = end
                    end += entry.byte_length
            if end != file_bytes:
                raise FormatError(f"{file_bytes} bytes, expected {end}{_cut(file_bytes, end)}")
        except FormatError as error:
            raise FormatError(f"{path}: {error}. Nothing was loaded") from error
        yield Opened(path, header, header_bytes, file_bytes, file, offsets)


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The user's metadata of a file, `{}` if it has none.

    Raises:
        FormatError: as `load`, for the header alone.
    """
    with opened(path) as file:
        return dict(file.header.metadata)


def _read_header(file: BinaryIO, file_bytes: int) -> tuple[Header, int]:
    start = file.read(PREAMBLE)
    if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
        raise FormatError(f"begins with {start[:8].hex(' ')!r}, not a .terse file")
    if len(start) < PREAMBLE:
        raise FormatError(f"{len(start)} bytes, expected {PREAMBLE} or more: the file is cut short")
    version, flags = start[6], start[7]
    length, crc = int.from_bytes(start[8:12], "little"), int.from_bytes(start[12:], "little")
    if version > VERSION:
        raise FormatError(
            f"version {version}, but this tersor reads up to version {VERSION}. Update tersor"
        )
    if version < VERSION or flags & ~_DEFLATED:
        raise FormatError(f"version {version} with flags {flags:#04x} does not exist")
    if length > file_bytes - PREAMBLE:
        raise FormatError(f"header of {length} bytes, but {file_bytes - PREAMBLE} follow")
    stored = file.read(length)
    found = zlib.crc32(stored, zlib.crc32(start[:12]))
    if found != crc:
        raise FormatError(f"header checksum {found:08x}, expected {crc:08x}")
    return parse(stored, bool(flags & _DEFLATED)), PREAMBLE + length


def _cut(found: int, expected: int) -> str:
    return ": the file is cut short" if found < expected else ": something follows its end"

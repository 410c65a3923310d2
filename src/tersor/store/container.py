"""The bytes around the tensors: preamble, streams, header, and not a byte more.

0   6  magic 89 54 45 52 53 45, "TERSE" after a byte that is no text
6   1  version, 2
7   1  flags: bit 0 = the header is deflated; the others are 0
8   4  length of the stored header, little endian like all numbers
12  4  CRC-32 of bytes 0 to 11 and the stored header
16     the streams of the tensors in the header's order, then the header

In version 1 the header came before the streams.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from tersor.core.errors import FormatError
from tersor.core.files import replacing
from tersor.store.delta import restore
from tersor.store.entries import Header, Part, Stored
from tersor.store.header import dump, parse
from tersor.store.part_entries import Entries, PartEntries, part_entries
from tersor.store.streams import decode, decode_entries
from tersor.store.words import Words, from_words, require_plain, to_words

MAGIC = b"\x89TERSE"
VERSION = 2
PREAMBLE = 16
_DEFLATED = 1

Base = Mapping[str, Tensor]


class Writer:
    """A file that is being written: streams as they come, then the header that describes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(bytes(PREAMBLE))

    def stream(self, data: bytes) -> None:
        """Write the streams of the next part."""
        self._file.write(data)

    def finish(self, header: Header) -> int:
        """Write the header and the preamble; how many bytes they take.

        Raises:
            ConfigError: the header cannot be written down.
        """
        stored, deflated = dump(header)
        start = MAGIC + bytes([VERSION, _DEFLATED if deflated else 0])
        start += len(stored).to_bytes(4, "little")
        crc = zlib.crc32(stored, zlib.crc32(start))
        self._file.write(stored)
        self._file.seek(0)
        self._file.write(start + crc.to_bytes(4, "little"))
        self._file.seek(0, os.SEEK_END)
        return PREAMBLE + len(stored)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Writer]:
    """Write a file, whole or not at all.

    Raises:
        StorageError: the disk refuses it.
    """
    with replacing(path) as file:
        yield Writer(file)


@dataclass(frozen=True)
class Opened:
    """A file whose header is read and whose length fits to it.

    Args:
        header_bytes: preamble and header.
        file_bytes: length of the file.
        base: the tensors that differences are restored with.
    """

    path: Path
    version: int
    header: Header
    header_bytes: int
    file_bytes: int
    base: Base | None
    _file: BinaryIO
    _lock: threading.Lock
    _offsets: Mapping[str, int]

    def tensor(self, entry: Stored) -> Tensor:
        """The tensor of one entry, decoded alone.

        Raises:
            FormatError: its streams are damaged, it cannot be allocated, or the base is another.
        """
        tensor, jobs = self.begin(entry)
        for job in jobs:
            job()
        return tensor

    def begin(self, entry: Stored) -> tuple[Tensor, list[Callable[[], None]]]:
        """The tensor of one entry, not filled yet, and what fills it, part by part.

        The jobs may run in any order and in several threads; each raises as `tensor`.
        """
        with self._naming(entry):
            words = _allocated(entry)
            base = self._base_words(entry)
        jobs: list[Callable[[], None]] = []
        offset, begin = self._offsets[entry.name], 0
        for part in entry.parts:
            end = begin + part.grid.count
            under = None if base is None else base[begin:end]
            jobs.append(self._filling(entry, part, offset, words[begin:end], under))
            offset, begin = offset + part.byte_length, end
        return from_words(words, entry.dtype, entry.shape), jobs

    def read(self, entry: Stored) -> Iterator[tuple[Part, bytes]]:
        """The parts of an entry with their streams, as they are in the file.

        Raises:
            FormatError: a checksum is another one.
        """
        offset = self._offsets[entry.name]
        for part in entry.parts:
            with self._naming(entry):
                yield part, self._stream(part, offset)
            offset += part.byte_length

    def entries(self, entry: Stored) -> Iterator[PartEntries]:
        """What each part of an entry holds; the tensor is not made for it.

        Raises:
            FormatError: as `tensor`.
        """
        with self._naming(entry):
            base = self._base_words(entry)
        begin = 0
        for part, data in self.read(entry):
            with self._naming(entry):
                _require_memory(part.grid.count * part.grid.word_size)
                if base is None:
                    found = decode_entries(part.codec, data, part.grid)
                else:
                    words = decode(part.codec, data, part.grid)
                    words = restore(words, base[begin : begin + len(words)], entry.dtype)
                    found = Entries(part.grid, None, words, None)
            yield part_entries(begin, found, entry.dtype)
            begin += part.grid.count

    def error(self, what: object, entry: Stored) -> FormatError:
        """An error about one tensor of this file."""
        return FormatError(f"{self.path}, tensor {entry.name!r}: {what}. Nothing was loaded")

    def _filling(
        self, entry: Stored, part: Part, offset: int, words: Words, base: Words | None
    ) -> Callable[[], None]:
        def fill() -> None:
            with self._naming(entry):
                found = decode(part.codec, self._stream(part, offset), part.grid)
                if base is not None:
                    found = restore(found, base, entry.dtype)
                words[:] = found

        return fill

    def _stream(self, part: Part, offset: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(part.byte_length)
        crc = zlib.crc32(data)
        if crc != part.crc:
            raise FormatError(f"checksum {crc:08x}, expected {part.crc:08x}")
        return data

    def _base_words(self, entry: Stored) -> Words | None:
        if entry.base is None:
            return None
        if self.base is None:
            raise FormatError(
                "stored as a difference to a base, and none is given. Say base= (--base)"
            )
        if entry.name not in self.base:
            raise FormatError("stored as a difference to a base, which has no such tensor")
        tensor = require_plain(self.base[entry.name])
        if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
            raise FormatError("the base has another dtype or shape there: it is not the one")
        words = to_words(tensor)
        crc = words_crc(words)
        if crc != entry.base:
            raise FormatError(
                f"the base is another one: checksum {crc:08x}, expected {entry.base:08x}"
            )
        return words

    @contextlib.contextmanager
    def _naming(self, entry: Stored) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise self.error(error, entry) from error


def words_crc(words: Words) -> int:
    """CRC-32 of words, little endian."""
    little = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    return zlib.crc32(little.view(np.uint8).data)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *, base: Base | None = None) -> Iterator[Opened]:
    """Open a file and check all but its streams.

    Args:
        base: the tensors that it was made against, if it was.

    Raises:
        FormatError: it is no `.terse` file, a newer one, or damaged.
        FileNotFoundError: there is none.
    """
    path = Path(path)
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            version, header, header_bytes = _read_header(file, file_bytes)
            offsets: dict[str, int] = {}
            end = header_bytes if version == 1 else PREAMBLE
            for entry in header.entries:
                if isinstance(entry, Stored):
                    offsets[entry.name] = end
                    end += entry.byte_length
            end += 0 if version == 1 else header_bytes - PREAMBLE
            if end != file_bytes:
                raise FormatError(f"{file_bytes} bytes, expected {end}{_cut(file_bytes, end)}")
        except FormatError as error:
            raise FormatError(f"{path}: {error}. Nothing was loaded") from error
        lock = threading.Lock()
        yield Opened(path, version, header, header_bytes, file_bytes, base, file, lock, offsets)


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The user's metadata of a file, `{}` if it has none.

    Raises:
        FormatError: as `load`, for the header alone.
    """
    with opened(path) as file:
        return dict(file.header.metadata)


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _allocated(entry: Stored) -> Words:
    _require_memory(entry.dense_bytes)
    dtype = np.dtype(f"u{entry.parts[0].grid.word_size}")
    try:
        return np.empty(entry.count, dtype)
    except (MemoryError, ValueError) as error:
        raise FormatError(f"{entry.dense_bytes} bytes cannot be allocated ({error})") from error


def _require_memory(size: int) -> None:
    memory = machine_memory()
    if memory is not None and size > memory:
        raise FormatError(f"{size} bytes cannot be allocated, the machine has {memory}")


def _read_header(file: BinaryIO, file_bytes: int) -> tuple[int, Header, int]:
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
    if version < 1 or flags & ~_DEFLATED:
        raise FormatError(f"version {version} with flags {flags:#04x} does not exist")
    if length > file_bytes - PREAMBLE:
        raise FormatError(
            f"header of {length} bytes, but {file_bytes - PREAMBLE} follow: the file is cut short"
        )
    if version > 1:
        file.seek(file_bytes - length)
    stored = file.read(length)
    found = zlib.crc32(stored, zlib.crc32(start[:12]))
    if found != crc:
        hint = "" if version == 1 else ": the file is cut short, or damaged"
        raise FormatError(f"header checksum {found:08x}, expected {crc:08x}{hint}")
    return version, parse(stored, bool(flags & _DEFLATED), version), PREAMBLE + length


def _cut(found: int, expected: int) -> str:
    return ": the file is cut short" if found < expected else ": something follows its end"

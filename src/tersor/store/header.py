"""The header: what is stored, in compact JSON. It says nothing that follows from something else."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tersor.core.errors import ConfigError, FormatError
from tersor.store.codecs import Codebook, Codec, Dense, Mask, Raw, Relative
from tersor.store.words import DTYPES, Grid, dtype_name, grid

MAX_HEADER_BYTES = 1 << 26  # after inflation


@dataclass(frozen=True)
class Stored:
    """A tensor with streams of its own."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    codec: Codec
    crc: int

    @property
    def grid(self) -> Grid:
        return grid(self.dtype, self.shape)

    @property
    def weights(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return self.grid.count * self.grid.word_size

    @property
    def byte_length(self) -> int:
        """Bytes of its streams in the file."""
        return self.codec.byte_length(self.grid)


@dataclass(frozen=True)
class Repeated:
    """A tensor that is stored already, as entry number `of`.

    Args:
        tied: the same tensor object; otherwise one of its own with equal bits.
    """

    name: str
    of: int
    tied: bool


Entry = Stored | Repeated


@dataclass(frozen=True)
class Header:
    """What a file holds, and what the user says about it."""

    entries: Sequence[Entry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def source(self, entry: Entry) -> Stored:
        """The entry whose streams say what this one is."""
        found = self.entries[entry.of] if isinstance(entry, Repeated) else entry
        assert isinstance(found, Stored)
        return found

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors in memory, tied ones once."""
        return sum(
            self.source(entry).dense_bytes
            for entry in self.entries
            if not (isinstance(entry, Repeated) and entry.tied)
        )


def dump(header: Header) -> tuple[bytes, bool]:
    """The header's bytes, and whether they are deflated.

    Raises:
        ConfigError: a name or the metadata is not what JSON can hold, or all of it is too large.
    """
    tensors = [_dump_entry(entry) for entry in header.entries]
    plain: dict[str, Any] = {"tensors": tensors}
    if header.metadata:
        plain["metadata"] = check_metadata(header.metadata)
    try:
        text = _compact(plain).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"a name or the metadata is not valid Unicode ({error})") from None
    if len(text) > MAX_HEADER_BYTES:
        raise ConfigError(f"names and metadata take {len(text)} bytes, at most {MAX_HEADER_BYTES}")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    deflated = squeezer.compress(text) + squeezer.flush()
    return (deflated, True) if len(deflated) < len(text) else (text, False)


def parse(data: bytes, deflated: bool) -> Header:
    """The header of these bytes, every number in it checked.

    Raises:
        FormatError: it is not as `dump` writes it.
    """
    plain = _fields(
        _load(_inflate(data) if deflated else data), "header", {"tensors"}, {"metadata"}
    )
    if not isinstance(plain["tensors"], list):
        raise FormatError("'tensors' is no list")
    metadata = plain.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FormatError("'metadata' is no object")
    entries: list[Entry] = []
    names: set[str] = set()
    for number, value in enumerate(plain["tensors"]):
        entry = _parse_entry(value, number, entries)
        if entry.name in names:
            raise FormatError(f"tensor {entry.name!r}: the name comes twice")
        names.add(entry.name)
        entries.append(entry)
    return Header(entries, metadata)


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A plain copy of the user's metadata.

    Raises:
        ConfigError: it would not come back from JSON as it is.
    """
    plain = dict(metadata)
    try:
        back = json.loads(_compact(plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"metadata: not JSON ({error})") from None
    if back != plain:
        raise ConfigError(
            f"metadata: {plain!r} would come back as {back!r}. Use objects with names as keys, "
            "lists, strings, finite numbers, true, false and null"
        )
    return plain


def _compact(plain: Any) -> str:
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _dump_entry(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Repeated):
        return {"name": entry.name, "tied" if entry.tied else "copy": entry.of}
    plain: dict[str, Any] = {
        "name": entry.name,
        "dtype": dtype_name(entry.dtype),
        "shape": list(entry.shape),
    }
    match entry.codec.positions:
        case Mask(kept=kept):
            plain["mask"] = {"kept": kept}
        case Relative() as relative:
            plain["relative"] = _without_defaults(relative)
        case Dense():
            pass
    match entry.codec.values:
        case Codebook() as codebook:
            plain["codebook"] = _without_defaults(codebook)
        case Raw():
            pass
    return plain | {"crc": entry.crc}


def _without_defaults(record: Relative | Codebook) -> dict[str, Any]:
    fields = record.__dataclass_fields__
    return {k: v for k in fields if (v := getattr(record, k)) != fields[k].default}


def _parse_entry(value: Any, number: int, before: Sequence[Entry]) -> Entry:
    where = f"tensor number {number}"
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        where = f"tensor {value['name']!r}"
    for key, tied in (("tied", True), ("copy", False)):
        if isinstance(value, dict) and key in value:
            plain = _fields(value, where, {"name", key})
            of = _number(plain[key], f"{where}: {key!r}")
            if of >= len(before) or not isinstance(before[of], Stored):
                raise FormatError(f"{where}: {key!r} is {of}, which is no stored tensor before it")
            return Repeated(_text(plain["name"], where), of, tied)
    plain = _fields(
        value, where, {"name", "dtype", "shape", "crc"}, {"mask", "relative", "codebook"}
    )
    if not isinstance(plain["dtype"], str) or plain["dtype"] not in DTYPES:
        raise FormatError(f"{where}: dtype {plain['dtype']!r} is not known")
    if not isinstance(plain["shape"], list):
        raise FormatError(f"{where}: 'shape' is no list")
    shape = tuple(_number(side, f"{where}: a side of the shape") for side in plain["shape"])
    dtype = DTYPES[plain["dtype"]]
    _check_extent(shape, dtype.itemsize, where)
    crc = _number(plain["crc"], f"{where}: 'crc'")
    if crc >= 2**32:
        raise FormatError(f"{where}: 'crc' is {crc}, expected 32 bits")
    codec = _parse_codec(plain, where)
    try:
        codec.check(grid(dtype, shape))
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    return Stored(_text(plain["name"], where), dtype, shape, codec, crc)


def _check_extent(shape: tuple[int, ...], itemsize: int, where: str) -> None:
    """Stops at the first overflow: the product of a million large sides would take for ever."""
    extent = itemsize
    for side in shape:
        extent *= side or 1
        if extent >= 2**63:
            raise FormatError(f"{where}: shape {str(list(shape[:8]))[:60]} overflows")


def _parse_codec(plain: dict[str, Any], where: str) -> Codec:
    positions: Dense | Mask | Relative = Dense()
    if "mask" in plain and "relative" in plain:
        raise FormatError(f"{where}: both 'mask' and 'relative'")
    if "mask" in plain:
        mask = _fields(plain["mask"], f"{where}: mask", {"kept"})
        positions = Mask(_number(mask["kept"], f"{where}: 'kept'"))
    if "relative" in plain:
        words = {"order": ("row", "column"), "convention": ("gap1", "gap")}
        options = _fields(
            plain["relative"],
            f"{where}: relative",
            {"bits", "kept", "fillers"},
            {"huffman", *words},
        )
        for key, value in options.items():
            if key not in words:
                _number(value, f"{where}: {key!r}")
            elif not isinstance(value, str) or value not in words[key]:
                raise FormatError(f"{where}: {key!r} is {value!r}, expected one of {words[key]}")
        positions = Relative(**options)
    if "codebook" not in plain:
        return Codec(positions, Raw())
    options = _fields(plain["codebook"], f"{where}: codebook", {"size"}, {"huffman"})
    for key, value in options.items():
        _number(value, f"{where}: {key!r}")
    return Codec(positions, Codebook(**options))


def _fields(
    value: Any, where: str, required: set[str], optional: set[str] | None = None
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: {value!r:.60} is no object")
    unknown = value.keys() - required - (optional or set())
    if unknown:
        raise FormatError(f"{where}: unknown key {min(unknown)!r}")
    missing = required - value.keys()
    if missing:
        raise FormatError(f"{where}: {min(missing)!r} is missing")
    return value


def _number(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise FormatError(f"{where} is {value!r:.60}, expected a whole number from 0 to 2^63")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: 'name' is {value!r:.60}, expected a text")
    return value


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        text = inflater.decompress(data, MAX_HEADER_BYTES + 1)
    except zlib.error as error:
        raise FormatError(f"the header cannot be inflated ({error})") from None
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"the header inflates to more than {MAX_HEADER_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise FormatError("the deflated header is cut short, or has bytes after its end")
    return text


def _load(text: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        plain = dict(pairs)
        if len(plain) < len(pairs):
            raise ValueError("a key comes twice")
        return plain

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header is not JSON ({error})") from None

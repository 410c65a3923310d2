"""The header: what is stored, in compact JSON. It says nothing that follows from something else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tersor.core.errors import ConfigError, FormatError
from tersor.store.codecs import Codebook, Codec, Dense, Map, Mask, Planes, Raw, Relative
from tersor.store.entries import Entry, Header, Part, Repeated, Stored
from tersor.store.words import DTYPES, dtype_name, grid

MAX_HEADER_BYTES = 1 << 26  # after inflation
MAX_BRACKETS = 1 << 20  # lists and objects take far more memory than their text
DICTIONARY = (
    b'"convention":"gap","order":"column","huffman":,"rans":,"mask":{"kept":,"copy":,"tied":},'
    b'"base":,"parts":[{"metadata":{"num_batches_tracked","running_mean","running_var",'
    b'"embed_tokens.weight","self_attn.q_proj.weight","k_proj.weight","v_proj.weight",'
    b'"o_proj.weight","mlp.gate_proj.weight","up_proj.weight","down_proj.weight","layernorm.weight"'
    b',"dtype":"int64","dtype":"uint8","dtype":"float16","dtype":"bfloat16","shape":[],'
    b'"relative":{"bits":8,"kept":,"fillers":0,"rans":},"codebook":{"size":,"rans":},"crc":'
    b'{"tensors":[{"name":"fc1.bias","dtype":"float32","shape":[100],"planes":{"lengths":[0,0,0,0],'
    b'"rotate":true},"crc":},{"name":"conv1.weight","dtype":"float32","shape":[300,784],'
    b'"map":{"kept":,"bytes":,"lag":28},"codebook":{"size":16,"context":,"lag":28},"crc":'
)
"""What a deflated header of version 2 may refer to: the text that comes in most of them."""


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
    if text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
        raise ConfigError(f"more than {MAX_BRACKETS} lists and objects in tensors and metadata")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    deflated = squeezer.compress(text) + squeezer.flush()
    return (deflated, True) if len(deflated) < len(text) else (text, False)


def parse(data: bytes, deflated: bool, version: int) -> Header:
    """The header of these bytes, every number in it checked.

    Raises:
        FormatError: it is not as `dump` writes it.
    """
    plain = _fields(
        _load(_inflate(data, version) if deflated else data), "header", {"tensors"}, {"metadata"}
    )
    if not isinstance(plain["tensors"], list):
        raise FormatError("'tensors' is no list")
    metadata = plain.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FormatError("'metadata' is no object")
    entries: list[Entry] = []
    names: set[str] = set()
    for number, value in enumerate(plain["tensors"]):
        entry = _parse_entry(value, number, entries, version)
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
    parts = [_dump_codec(part.codec) | {"crc": part.crc} for part in entry.parts]
    plain |= parts[0] if len(parts) == 1 else {"parts": parts}
    return plain if entry.base is None else plain | {"base": entry.base}


def _dump_codec(codec: Codec) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    match codec.positions:
        case Mask(kept=kept):
            plain["mask"] = {"kept": kept}
        case Map() as places:
            plain["map"] = _without_defaults(places)
        case Relative() as relative:
            plain["relative"] = _without_defaults(relative)
        case Dense():
            pass
    match codec.values:
        case Codebook() as codebook:
            plain["codebook"] = _without_defaults(codebook)
        case Planes(lengths=lengths, rotate=rotate):
            plain["planes"] = {"lengths": list(lengths)} | ({"rotate": True} if rotate else {})
        case Raw():
            pass
    return plain


def _without_defaults(record: Map | Relative | Codebook) -> dict[str, Any]:
    fields = record.__dataclass_fields__
    return {k: v for k in fields if (v := getattr(record, k)) != fields[k].default}


def _parse_entry(value: Any, number: int, before: Sequence[Entry], version: int) -> Entry:
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
    codec_keys = {"mask", "relative", "codebook"} if version == 1 else _CODEC_KEYS
    in_parts = version > 1 and isinstance(value, dict) and "parts" in value
    plain = _fields(
        value,
        where,
        {"name", "dtype", "shape", "parts" if in_parts else "crc"},
        (set() if in_parts else codec_keys) | ({"base"} if version > 1 else set()),
    )
    if not isinstance(plain["dtype"], str) or plain["dtype"] not in DTYPES:
        raise FormatError(f"{where}: dtype {plain['dtype']!r} is not known")
    if not isinstance(plain["shape"], list):
        raise FormatError(f"{where}: 'shape' is no list")
    shape = tuple(_number(side, f"{where}: a side of the shape") for side in plain["shape"])
    dtype = DTYPES[plain["dtype"]]
    _check_extent(shape, dtype.itemsize, where)
    whole = grid(dtype, shape)
    count = whole.part_count if version > 1 else 1
    if in_parts and count == 1:
        raise FormatError(f"{where}: 'parts', but a tensor of this shape has only one")
    listed = plain["parts"] if in_parts else [plain]
    if not isinstance(listed, list) or len(listed) != count:
        raise FormatError(f"{where}: not the {count} parts of its shape")
    parts: list[Part] = []
    for part, place in zip(listed, whole.parts() if version > 1 else [whole], strict=True):
        if in_parts:
            part = _fields(part, f"{where}: part {len(parts)}", {"crc"}, codec_keys)
        codec = _parse_codec(part, where)
        if version == 1 and (_rans(codec.positions) or _rans(codec.values)):
            raise FormatError(f"{where}: 'rans' in a file of version 1")
        try:
            codec.check(place)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
        parts.append(Part(place, codec, _crc(part["crc"], f"{where}: 'crc'")))
    base = _crc(plain["base"], f"{where}: 'base'") if "base" in plain else None
    return Stored(_text(plain["name"], where), dtype, shape, tuple(parts), base)


def _rans(record: object) -> bool:
    return any(getattr(record, key, None) is not None for key in ("rans", "context"))


def _crc(value: Any, where: str) -> int:
    crc = _number(value, where)
    if crc >= 2**32:
        raise FormatError(f"{where} is {crc}, expected 32 bits")
    return crc


def _check_extent(shape: tuple[int, ...], itemsize: int, where: str) -> None:
    """Stops at the first overflow: the product of a million large sides would take for ever."""
    extent = itemsize
    for side in shape:
        extent *= side or 1
        if extent >= 2**63:
            raise FormatError(f"{where}: shape {str(list(shape[:8]))[:60]} overflows")


_CODEC_KEYS = {"mask", "map", "relative", "codebook", "planes"}


def _parse_codec(plain: dict[str, Any], where: str) -> Codec:
    for group in (("mask", "map", "relative"), ("codebook", "planes")):
        given = [key for key in group if key in plain]
        if len(given) > 1:
            raise FormatError(f"{where}: both {given[0]!r} and {given[1]!r}")
    positions: Dense | Mask | Map | Relative = Dense()
    if "mask" in plain:
        mask = _fields(plain["mask"], f"{where}: mask", {"kept"})
        positions = Mask(_number(mask["kept"], f"{where}: 'kept'"))
    if "map" in plain:
        positions = Map(**_numbers(plain["map"], f"{where}: map", {"kept", "bytes"}, {"lag"}))
    if "relative" in plain:
        positions = _parse_relative(plain["relative"], f"{where}: relative")
    if "planes" in plain:
        return Codec(positions, _parse_planes(plain["planes"], f"{where}: planes"))
    if "codebook" in plain:
        streams = {"huffman", "rans", "context", "lag"}
        options = _numbers(plain["codebook"], f"{where}: codebook", {"size"}, streams)
        return Codec(positions, Codebook(**options))
    return Codec(positions, Raw())


def _parse_relative(value: Any, where: str) -> Relative:
    words = {"order": ("row", "column"), "convention": ("gap1", "gap")}
    options = _fields(value, where, {"bits", "kept", "fillers"}, {"huffman", "rans", *words})
    for key, option in options.items():
        if key not in words:
            _number(option, f"{where}: {key!r}")
        elif not isinstance(option, str) or option not in words[key]:
            raise FormatError(f"{where}: {key!r} is {option!r}, expected one of {words[key]}")
    return Relative(**options)


def _parse_planes(value: Any, where: str) -> Planes:
    options = _fields(value, where, {"lengths"}, {"rotate"})
    if not isinstance(options["lengths"], list) or options.get("rotate", True) is not True:
        raise FormatError(f"{where}: expected a list of lengths, and 'rotate' only as true")
    lengths = tuple(_number(length, f"{where}: a length") for length in options["lengths"])
    return Planes(lengths, "rotate" in options)


def _numbers(value: Any, where: str, required: set[str], optional: set[str]) -> dict[str, int]:
    options = _fields(value, where, required, optional)
    return {key: _number(number, f"{where}: {key!r}") for key, number in options.items()}


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


def _inflate(data: bytes, version: int) -> bytes:
    inflater = zlib.decompressobj(-15, b"" if version == 1 else DICTIONARY)
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

    if text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
        raise FormatError(f"the header has more than {MAX_BRACKETS} lists and objects")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header is not JSON ({error})") from None

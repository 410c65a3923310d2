"""Safetensors files: the header read and checked, the tensors read and written one at a time.

8 bytes, the length of the header; the header, JSON: name to dtype, shape and offsets; the data,
without a hole. The library writes the same bytes, but needs all tensors in memory for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError
from tersor.store.words import from_words, grid, to_words

# In the order in which the library lays out the data; only those that this torch has.
_NAMES = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F32": "float32",
    "U32": "uint32",
    "I32": "int32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U16": "uint16",
    "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "F4": "float4_e2m1fn_x2",
    "BOOL": "bool",
}
_DTYPES = {key: getattr(torch, name) for key, name in _NAMES.items() if hasattr(torch, name)}
_KEYS = {dtype: key for key, dtype in _DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES.values())}

_MAX_HEADER_BYTES = 100_000_000  # as the library has it

_PIECE = 1 << 20  # words that are read or written at once

Kind = tuple[torch.dtype, tuple[int, ...]]
Octets = NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its bytes from `start` on, counted from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> bytes:
    """The header of a file, without its length before it.

    Raises:
        FormatError: the file is none of safetensors.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MAX_HEADER_BYTES:
            raise FormatError(f"{path}: not a safetensors file, or damaged (begins with {start!r})")
        header = file.read(length)
        if len(header) < length:
            raise FormatError(f"{path}: not a safetensors file, or cut short (its header)")
        return header


def parse_header(header: bytes) -> tuple[list[Place], dict[str, str] | None]:
    """The places of all tensors, in the order of the data, and the metadata.

    Raises:
        FormatError: it is not as the format says.
        ConfigError: there is a dtype that this torch lacks.
    """
    try:
        plain = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the safetensors header is not JSON ({error})") from None
    if not isinstance(plain, dict):
        raise FormatError("the safetensors header is no object")
    metadata = plain.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    ):
        raise FormatError("the metadata of the safetensors header is no object of texts")
    places = sorted((_place(name, value) for name, value in plain.items()), key=_span)
    end = 0
    for place in places:
        if place.start != end:
            raise FormatError(f"{place.name!r} begins at byte {place.start}, expected {end}")
        end += place.num_bytes
    return places, metadata


def data_bytes(places: Sequence[Place]) -> int:
    """Length of the data of all tensors."""
    return places[-1].start + places[-1].num_bytes if places else 0


def canonical_header(kinds: Mapping[str, Kind], metadata: Mapping[str, str]) -> bytes:
    """The header that the library writes for these tensors.

    Raises:
        ConfigError: safetensors has no such dtype, or a name is its own key for metadata.
    """
    plain: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(
        kinds, key=lambda n: (_ORDER.get(kinds[n][0], 0), n.encode("utf-8", "surrogatepass"))
    ):
        dtype, shape = kinds[name]
        if dtype not in _KEYS or name == "__metadata__":
            raise ConfigError(f"safetensors cannot hold {name!r} of {dtype}. Unpack to .pt instead")
        sides = list(shape)
        if _KEYS[dtype] == "F4":  # two numbers in an element of torch's
            if not sides:
                raise ConfigError(f"safetensors cannot hold {name!r}: no side that {dtype} halves")
            sides[-1] *= 2
        start, end = end, end + math.prod(shape) * dtype.itemsize
        plain[name] = {"dtype": _KEYS[dtype], "shape": sides, "data_offsets": [start, end]}
    try:
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"safetensors cannot hold a name or metadata ({error})") from None
    return text + b" " * (-len(text) % 8)


@dataclass(frozen=True)
class InFile:
    """One tensor of a file, read when it is called for.

    Args:
        data_start: where the header ends.
    """

    path: Path
    place: Place
    data_start: int

    def __call__(self) -> Tensor:
        """The tensor.

        Raises:
            FormatError: the file ends before it.
        """
        octets = np.empty(self.place.num_bytes, np.uint8)
        start = 0
        for piece in self.octets():
            octets[start : start + len(piece)] = piece
            start += len(piece)
        size = self._word_size
        words = octets.view(f"<u{size}").astype(f"=u{size}", copy=False)
        return from_words(words, self.place.dtype, self.place.shape)

    def octets(self) -> Iterator[Octets]:
        """Its bytes, as many at a time as `octets_of` gives.

        Raises:
            FormatError: the file ends before it.
        """
        size = self._word_size * _PIECE
        with self.path.open("rb") as file:
            file.seek(self.data_start + self.place.start)
            for start in range(0, self.place.num_bytes, size):
                octets = np.empty(min(size, self.place.num_bytes - start), np.uint8)
                if file.readinto(octets.data) != len(octets):
                    raise FormatError(f"{self.path}: ends before tensor {self.place.name!r}")
                yield octets

    @property
    def _word_size(self) -> int:
        return grid(self.place.dtype, self.place.shape).word_size


def write(file: BinaryIO, header: bytes, tensors: Iterable[Tensor]) -> int:
    """Write a file: its header, and the tensors in the order of their places.

    Returns:
        The bytes of it.
    """
    file.write(len(header).to_bytes(8, "little") + header)
    written = 8 + len(header)
    for tensor in tensors:
        for octets in octets_of(tensor):
            written += file.write(octets.data)
    return written


def octets_of(tensor: Tensor) -> Iterator[Octets]:
    """The bytes of a tensor, little endian, a few MB at a time."""
    words = to_words(tensor)
    for start in range(0, len(words), _PIECE):
        yield words[start : start + _PIECE].astype(f"<u{words.itemsize}", copy=False).view(np.uint8)


def _span(place: Place) -> tuple[int, int]:
    return place.start, place.num_bytes  # of those that begin at one byte the empty ones first


def _place(name: str, value: Any) -> Place:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    shape, offsets, key = value["shape"], value["data_offsets"], value["dtype"]
    for numbers in (shape, offsets):
        whole = isinstance(numbers, list) and all(type(n) is int for n in numbers)
        if not whole or not all(0 <= n < 2**63 for n in numbers):
            raise FormatError(f"tensor {name!r}: {numbers!r:.60}, expected whole numbers")
    if not isinstance(key, str) or key not in _DTYPES:
        raise ConfigError(f"tensor {name!r}: dtype {key!r:.40} is none that this torch has")
    if key == "F4":
        if not shape or shape[-1] % 2:
            raise ConfigError(f"tensor {name!r}: F4 with an odd last side does not fit into torch")
        shape = [*shape[:-1], shape[-1] // 2]
    place = Place(name, _DTYPES[key], tuple(shape), offsets[0] if offsets else 0)
    extent = place.dtype.itemsize
    for side in place.shape:
        extent *= side or 1
        if extent >= 2**63:
            raise FormatError(f"tensor {name!r}: shape {shape[:8]!r:.60} overflows")
    if len(offsets) != 2 or offsets[1] - offsets[0] != place.num_bytes:
        raise FormatError(
            f"tensor {name!r}: offsets {offsets!r:.60}, but it takes {place.num_bytes} bytes"
        )
    return place


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        raise ValueError("a key comes twice")
    return plain

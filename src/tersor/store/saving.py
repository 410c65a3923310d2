"""Write a state dict as the smallest file that gives back every bit."""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.store.choose import encoded
from tersor.store.container import Base, Writer, words_crc, writing
from tersor.store.delta import difference
from tersor.store.entries import Entry, Header, Part, Repeated, Stored
from tersor.store.header import check_metadata
from tersor.store.words import Words, dtype_name, grid, require_plain, to_words


def save(
    model_or_state_dict: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    base: Base | None = None,
    fast: bool = False,
    watch: Callable[[str, int], None] | None = None,
) -> Report:
    """Write all tensors of a model to a `.terse` file, without loss of a single bit.

    For each tensor every codec is tried and the smallest kept. Tensors that are one and the same
    are stored once and come back as one; equal ones are stored once. What is not kept: device,
    strides, `requires_grad`, and whether it was a parameter or a buffer.

    Args:
        model_or_state_dict: a module, or names to tensors. Of a mapping whose `on_demand` is true,
            which reads each tensor when it is asked for it, no more than one is held at a time.
        path: the file; the suffix is `.terse` by custom.
        metadata: a JSON object to be kept with the tensors.
        base: other tensors, as those of a pretrained model. What has the same name, dtype and
            shape there is stored as a difference where that is smaller, and read only with it.
        fast: for a file that is read some times faster, and is some percent larger where tensors
            are sparse or shared: the context coder is left out.
        watch: told each tensor's name and bytes in memory as it is begun.

    Returns:
        A report with one row per tensor: codec, bytes, bits per weight.

    Raises:
        ConfigError: an entry is no plain tensor, or the metadata is not JSON.
        StorageError: the file cannot be written; what stood there is unchanged.

    >>> import tempfile, torch
    >>> weight = torch.tensor([0.0, 0.5, 0.0, -0.5]).repeat(250, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(save({"weight": weight}, f"{folder}/net.terse").rows[0]["bytes"])
    17
    """
    if isinstance(model_or_state_dict, nn.Module):
        state: Mapping[str, Tensor] = model_or_state_dict.state_dict()
    else:
        state = model_or_state_dict
    if not isinstance(state, Mapping):
        raise ConfigError(
            f"save: a {type(state).__name__}, expected a module or a mapping of names to tensors"
        )
    plain_metadata = check_metadata(metadata or {})
    on_demand = bool(getattr(state, "on_demand", False))
    if not on_demand:  # all tensors are checked before any is encoded
        for name in state:
            _plain(state, name)
    with writing(path) as writer:
        entries = list(_written(state, on_demand, writer, base or {}, fast, watch))
        header = Header(entries, plain_metadata)
        header_bytes = writer.finish(header)
    return _report(path, header, header_bytes)


def _report(path: str | os.PathLike[str], header: Header, header_bytes: int) -> Report:
    stored = [entry for entry in header.entries if isinstance(entry, Stored)]
    tensor_bytes = sum(entry.byte_length for entry in stored)
    file_bytes = header_bytes + tensor_bytes
    summary: dict[str, Value] = {
        "file bytes": file_bytes,
        "header bytes": header_bytes,
        "tensor bytes": tensor_bytes,
        "dense bytes": header.dense_bytes,
        "ratio": header.dense_bytes / file_bytes,
    }
    rows = [_row(header, entry) for entry in header.entries]
    return Report(f"Saved {os.fspath(path)}", summary, rows)


def _row(header: Header, entry: Entry) -> dict[str, Value]:
    source = header.source(entry)
    if isinstance(entry, Repeated):
        codec, stored = f"{'tied to' if entry.tied else 'same as'} {source.name}", 0
    else:
        codec, stored = str(entry), entry.byte_length
    return {
        "name": entry.name,
        "dtype": dtype_name(source.dtype),
        "shape": "x".join(map(str, source.shape)) or "scalar",
        "codec": codec,
        "bytes": stored,
        "bits_per_weight": stored * 8 / source.weights if source.weights else None,
    }


def _written(
    state: Mapping[str, Tensor],
    on_demand: bool,
    writer: Writer,
    base: Base,
    fast: bool,
    watch: Callable[[str, int], None] | None,
) -> Iterator[Entry]:
    """Write the streams of all tensors, and say what they are."""
    # The tensor stays with its number: its memory must not become another one's meanwhile.
    same_object: dict[tuple[Any, ...], tuple[int, Tensor]] = {}
    same_bits: dict[tuple[Any, ...], int] = {}
    for number, name in enumerate(state):
        tensor = _plain(state, name)
        if watch is not None:
            watch(name, tensor.numel() * tensor.itemsize)
        # What is read on demand is gone when the next one takes its place in memory.
        identity = None if on_demand else _identity(tensor)
        if identity is not None and identity in same_object:
            yield Repeated(name, same_object[identity][0], tied=True)
            continue
        words = to_words(tensor)
        content = (tensor.dtype, tuple(tensor.shape), _digest(words))
        if content in same_bits:
            yield Repeated(name, same_bits[content], tied=False)
            continue
        same_bits[content] = number
        if identity is not None:
            same_object[identity] = number, tensor
        yield _stored(name, tensor, words, writer, base, fast)


def _stored(
    name: str, tensor: Tensor, words: Words, writer: Writer, base: Base, fast: bool
) -> Stored:
    shape, dtype = tuple(tensor.shape), tensor.dtype
    grids = grid(dtype, shape).parts()
    under = _words_under(base, name, tensor)
    ends = list(itertools.accumulate(part.count for part in grids))
    parts: list[Part] = []
    crc: int | None = None
    for place, end in zip(grids, ends, strict=True):
        begin = end - place.count
        codec, data = None, b""
        if crc is None:
            codec, data = encoded(words[begin:end], place, fast=fast)
        # The first part decides for all of them.
        if under is not None and (crc is not None or begin == 0):
            changes = difference(words[begin:end], under[begin:end], dtype)
            other, shorter = encoded(changes, place, fast=fast)
            if codec is None or len(shorter) < len(data):
                codec, data, crc = other, shorter, words_crc(under)
        assert codec is not None
        writer.stream(data)
        parts.append(Part(place, codec, zlib.crc32(data)))
    return Stored(name, dtype, shape, tuple(parts), crc)


def _words_under(base: Base, name: str, tensor: Tensor) -> Words | None:
    """The words of the base's tensor that this one may be a difference to."""
    if name not in base:
        return None
    other = _plain(base, name, "base")
    if other.dtype != tensor.dtype or other.shape != tensor.shape:
        return None
    return to_words(other)


def _digest(words: Words) -> bytes:
    return hashlib.blake2b(words.view(np.uint8).data, digest_size=32).digest()


def _plain(state: Mapping[str, Tensor], name: object, what: str = "save") -> Tensor:
    if not isinstance(name, str):
        raise ConfigError(f"{what}: the name {name!r} is a {type(name).__name__}, expected a str")
    try:
        return require_plain(state[name])
    except ConfigError as error:
        raise ConfigError(f"{what}: {name!r}: {error}") from None


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are one: same memory, seen in the same way."""
    return (
        tensor.untyped_storage()._cdata,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )

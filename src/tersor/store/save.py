"""Write a state dict as the smallest file that gives back every bit."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.store.choose import best
from tersor.store.codecs import Codec
from tersor.store.container import write
from tersor.store.header import Entry, Header, Repeated, Stored, check_metadata
from tersor.store.streams import encode
from tersor.store.words import dtype_name, grid, require_plain, to_words


def save(
    model_or_state_dict: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Report:
    """Write all tensors of a model to a `.terse` file, without loss of a single bit.

    For each tensor every codec is tried and the smallest kept. Tensors that are one and the same
    are stored once and come back as one; equal ones are stored once. What is not kept: device,
    strides, `requires_grad`, and whether it was a parameter or a buffer.

    Args:
        model_or_state_dict: a module, or names to tensors.
        path: the file; the suffix is `.terse` by custom.
        metadata: a JSON object to be kept with the tensors.

    Returns:
        A report with one row per tensor: codec, bytes, bits per weight.

    Raises:
        ConfigError: an entry is no plain tensor, or the metadata is not JSON.
        StorageError: the file cannot be written; what stood there is unchanged.

    >>> import tempfile, torch
    >>> weight = torch.tensor([0.0, 0.5, 0.0, -0.5]).repeat(250, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(save({"weight": weight}, f"{folder}/net.terse").rows[0]["bytes"])
    73
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
    entries, streams = _encode_all(state)
    header_bytes = write(path, Header(entries, plain_metadata), streams)
    return report(f"Saved {os.fspath(path)}", entries, header_bytes)


def report(title: str, entries: Sequence[Entry], header_bytes: int) -> Report:
    """What is stored and what it takes, one row per tensor."""
    stored = [entry for entry in entries if isinstance(entry, Stored)]
    tensor_bytes = sum(entry.byte_length for entry in stored)
    # Plain bytes: tied tensors once, copies each, as any file without tricks would have them.
    dense_bytes = sum(
        _dense_bytes(entries, entry)
        for entry in entries
        if not (isinstance(entry, Repeated) and entry.tied)
    )
    total = header_bytes + tensor_bytes
    return Report(
        title,
        {
            "file bytes": total,
            "header bytes": header_bytes,
            "tensor bytes": tensor_bytes,
            "dense bytes": dense_bytes,
            "ratio": dense_bytes / total,
        },
        [row(entries, entry) for entry in entries],
    )


def row(entries: Sequence[Entry], entry: Entry) -> dict[str, Value]:
    """One tensor in a report."""
    if isinstance(entry, Repeated):
        source = entries[entry.of]
        word = "tied to" if entry.tied else "same as"
        return {"name": entry.name, "codec": f"{word} {source.name}", "bytes": 0}
    weights = entry.weights
    return {
        "name": entry.name,
        "dtype": dtype_name(entry.dtype),
        "shape": "x".join(map(str, entry.shape)) or "scalar",
        "codec": str(entry.codec),
        "bytes": entry.byte_length,
        "bits_per_weight": entry.byte_length * 8 / weights if weights else None,
    }


def _dense_bytes(entries: Sequence[Entry], entry: Entry) -> int:
    source = entries[entry.of] if isinstance(entry, Repeated) else entry
    assert isinstance(source, Stored)
    return source.dense_bytes


def _encode_all(state: Mapping[str, Tensor]) -> tuple[list[Entry], list[bytes]]:
    entries: list[Entry] = []
    streams: list[bytes] = []
    same_object: dict[tuple[Any, ...], int] = {}
    same_bits: dict[tuple[Any, ...], int] = {}
    for number, (name, tensor) in enumerate(_plain(state)):
        identity = _identity(tensor)
        if identity in same_object:
            entries.append(Repeated(name, same_object[identity], tied=True))
            continue
        shape = tuple(tensor.shape)
        codec, data = _encode(tensor)
        content = (tensor.dtype, shape, codec, data)
        if content in same_bits:
            entries.append(Repeated(name, same_bits[content], tied=False))
            continue
        same_object[identity] = same_bits[content] = number
        streams.append(data)
        entries.append(Stored(name, tensor.dtype, shape, codec, zlib.crc32(data)))
    return entries, streams


def _plain(state: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """The tensors, all of them checked before any is encoded."""
    plain: list[tuple[str, Tensor]] = []
    for name, value in state.items():
        if not isinstance(name, str):
            raise ConfigError(f"save: the name {name!r} is a {type(name).__name__}, expected a str")
        try:
            plain.append((name, require_plain(value)))
        except ConfigError as error:
            raise ConfigError(f"save: {name!r}: {error}") from None
    return plain


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


def _encode(tensor: Tensor) -> tuple[Codec, bytes]:
    words, lattice = to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))
    codec = best(words, lattice)
    return codec, encode(codec, words, lattice)

"""Write a state dict as the smallest file that gives back every bit."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
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
    header = Header(entries, plain_metadata)
    return _report(path, header, write(path, header, streams))


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
        codec, stored = str(entry.codec), entry.byte_length
    return {
        "name": entry.name,
        "dtype": dtype_name(source.dtype),
        "shape": "x".join(map(str, source.shape)) or "scalar",
        "codec": codec,
        "bytes": stored,
        "bits_per_weight": stored * 8 / source.weights if source.weights else None,
    }


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

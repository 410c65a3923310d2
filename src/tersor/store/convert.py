"""From and to the files of others: safetensors and torch checkpoints."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError
from tersor.core.files import replacing
from tersor.core.report import Report, Value
from tersor.store.container import metadata as metadata_of
from tersor.store.loading import load
from tersor.store.saving import save
from tersor.store.words import dtype_name

_TORCH = (".pt", ".pth", ".bin")
_KEYS = ("state_dict", "model_state_dict", "model")


def pack(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, key: str | None = None
) -> Report:
    """Write a checkpoint as a `.terse` file; every tensor keeps every bit.

    Args:
        source: a `.safetensors` file (its metadata is kept), or a torch checkpoint `.pt`, `.pth`,
            `.bin`: names to tensors, or an object that has such a mapping as `state_dict`,
            `model_state_dict` or `model`. Nothing in it is executed.
        target: the `.terse` file.
        key: where in a torch checkpoint the tensors are.

    Returns:
        The report of `save`; what was not packed is listed as skipped.

    Raises:
        ConfigError: the suffix is unknown, there are no tensors, or one that cannot be stored.
        FormatError: the file is damaged, or has code in it.
        StorageError: the target cannot be written.
    """
    state, metadata, skipped = _read(Path(source), key)
    report = save(state, target, metadata=metadata)
    return dataclasses.replace(report, title=f"Packed {source} as {target}", skipped=skipped)


def unpack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Report:
    """Write the tensors of a `.terse` file as a plain checkpoint.

    Args:
        source: a `.terse` file.
        target: `.safetensors` (metadata kept, what is no text as JSON; tied tensors become
            separate) or `.pt`, `.pth`, `.bin` (tied tensors stay tied; there is no metadata).

    Raises:
        ConfigError: the suffix is unknown, or safetensors has no such dtype.
        FormatError: as `load`.
        StorageError: the target cannot be written.
    """
    target = Path(target)
    _require_suffix(target, (".safetensors", *_TORCH))
    state, metadata = load(source), metadata_of(source)
    skipped: dict[str, str] = {}
    notes: list[str] = []
    if target.suffix == ".safetensors":
        data, tied = _safetensors_bytes(state, metadata)
        if tied:
            notes.append(f"Now separate, since safetensors has no ties: {', '.join(tied)}.")
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        if metadata:
            skipped["metadata"] = "a torch checkpoint of tensors has no place for it"
    with replacing(target) as file:
        file.write(data)
    summary: dict[str, Value] = {"file bytes": len(data), "tensors": len(state)}
    rows: list[dict[str, Value]] = [
        {
            "name": name,
            "dtype": dtype_name(tensor.dtype),
            "shape": "x".join(map(str, tensor.shape)) or "scalar",
            "bytes": tensor.numel() * tensor.itemsize,
        }
        for name, tensor in state.items()
    ]
    return Report(f"Unpacked {source} as {target}", summary, rows, skipped, notes)


def read_tensors(
    path: str | os.PathLike[str], *, key: str | None = None
) -> OrderedDict[str, Tensor]:
    """The tensors of a `.terse` or `.safetensors` file or a torch checkpoint, by name.

    Args, Raises: as `load` and `pack`.
    """
    if Path(path).suffix == ".terse":
        return load(path)
    return OrderedDict(_read(Path(path), key)[0])


def _read(
    source: Path, key: str | None
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Tensors, metadata, and what is neither, with the reason."""
    _require_suffix(source, (".safetensors", *_TORCH))
    if source.suffix in _TORCH:
        state, skipped = _choose(source, _torch_load(source), key)
        return state, {}, skipped
    if key is not None:
        raise ConfigError(f"{source}: key {key!r}, but a safetensors file has no keys to choose")
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
            return state, file.metadata() or {}, {}
    except safetensors.SafetensorError as error:
        raise FormatError(f"{source}: not a safetensors file, or damaged ({error})") from error


def _torch_load(source: Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{source}: more than tensors and plain data, and code in a file is never run "
            f"({str(error).splitlines()[0]}). Save model.state_dict() alone"
        ) from error
    except Exception as error:  # torch raises whatever its unpickler met
        raise FormatError(f"{source}: not a torch checkpoint, or damaged ({error})") from error


def _choose(
    source: Path, loaded: object, key: str | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not isinstance(loaded, Mapping):
        raise ConfigError(
            f"{source}: holds a {type(loaded).__name__}, expected a mapping of names to tensors"
        )
    if key is not None and key not in loaded:
        raise ConfigError(f"{source}: has no {key!r}; it has: {_names(loaded)}")
    if key is None and not any(isinstance(value, Tensor) for value in loaded.values()):
        key = next((k for k in _KEYS if isinstance(loaded.get(k), Mapping)), None)
    chosen, prefix = loaded, ""
    skipped: dict[str, str] = {}
    if key is not None:
        chosen, prefix = loaded[key], f"{key}."
        skipped = {str(k): f"not in {key!r}" for k in loaded if k != key}
    state: dict[str, Tensor] = {}
    for name, value in chosen.items() if isinstance(chosen, Mapping) else ():
        if isinstance(value, Tensor):
            state[name] = value
        else:
            skipped[f"{prefix}{name}"] = f"a {type(value).__name__}, not a tensor"
    if not state:
        raise ConfigError(
            f"{source}: no tensors{f' in {key!r}' if key else ''}; it has: {_names(loaded)}. "
            "Say with key= where they are"
        )
    return state, skipped


def _safetensors_bytes(
    state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> tuple[bytes, list[str]]:
    seen: dict[int, str] = {}
    tied = [name for name, tensor in state.items() if seen.setdefault(id(tensor), name) != name]
    separate = {name: t.clone() if name in tied else t for name, t in state.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    try:
        return safetensors.torch.save(separate, texts or None), tied
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ConfigError(
            f"safetensors cannot hold these tensors ({error}). Unpack to .pt instead"
        ) from error


def _require_suffix(path: Path, known: tuple[str, ...]) -> None:
    if path.suffix not in known:
        raise ConfigError(f"{path}: suffix {path.suffix!r}, expected one of {', '.join(known)}")


def _names(loaded: Mapping[Any, Any]) -> str:
    names = [f"{k} ({type(v).__name__})" for k, v in list(loaded.items())[:8]]
    return ", ".join(names) + (", ..." if len(loaded) > 8 else "") or "nothing"

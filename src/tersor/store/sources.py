"""The tensors of a file, by name, each of them read when it is asked for."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError
from tersor.store import safetensors_files
from tersor.store.container import metadata as metadata_of
from tersor.store.layout import HEADER, squeeze
from tersor.store.loading import load

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
TENSOR_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, eq=False)
class Source(Mapping[str, Tensor]):
    """The tensors of a file or a folder.

    Args:
        path: where they are.
        readers: name to a function that gives the tensor, in the order of the data.
        num_bytes: length of the file or files.
        metadata: what is kept with the tensors.
        skipped: what is no tensor, with the reason.
        on_demand: a tensor is made anew whenever it is asked for; otherwise it is the same one.
    """

    path: Path
    readers: Mapping[str, Callable[[], Tensor]]
    num_bytes: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    on_demand: bool = True

    def __getitem__(self, name: str) -> Tensor:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def kind(self, name: str) -> safetensors_files.Kind:
        """The dtype and the shape of a tensor."""
        reader = self.readers[name]
        if isinstance(reader, safetensors_files.InFile):
            return reader.place.dtype, reader.place.shape
        tensor = reader()
        return tensor.dtype, tuple(tensor.shape)

    def octets(self, name: str) -> Iterator[safetensors_files.Octets]:
        """The bytes of a tensor as from `octets_of`, without all of them in memory if possible."""
        reader = self.readers[name]
        if isinstance(reader, safetensors_files.InFile):
            return reader.octets()
        return safetensors_files.octets_of(reader())

    def __len__(self) -> int:
        return len(self.readers)


def require_suffix(path: Path, known: tuple[str, ...]) -> None:
    """Raise ConfigError if a file is of none of these kinds."""
    if path.suffix not in known:
        raise ConfigError(f"{path}: suffix {path.suffix!r}, expected one of {', '.join(known)}")


def safetensors_source(path: Path) -> Source:
    """The tensors of a safetensors file, in the order of its data.

    Its metadata is the file's; where the library would write another header, that is added.

    Raises:
        FormatError: it is damaged.
        ConfigError: it has a dtype that this torch lacks.
        FileNotFoundError: there is none.
    """
    readers, said, header = safetensors_content(path)
    metadata: dict[str, Any] = dict(said)
    if header is not None:
        metadata[HEADER] = {"deflated": squeeze(header)}
    return Source(path, readers, path.stat().st_size, metadata)


def safetensors_content(
    path: Path,
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str], bytes | None]:
    """The readers of the tensors, the metadata, and the header where it is not as usual.

    Raises:
        FormatError, ConfigError, FileNotFoundError: as `safetensors_source`.
    """
    require_content(path)
    try:
        with safetensors.safe_open(path, framework="pt"):  # it checks the whole header
            header = safetensors_files.read_header(path)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged ({error})") from error
    try:
        places, metadata = safetensors_files.parse_header(header)
    except (ConfigError, FormatError) as error:
        raise type(error)(f"{path}: {error}") from None
    kinds = {place.name: (place.dtype, place.shape) for place in places}
    usual = header == safetensors_files.canonical_header(kinds, metadata or {})
    start = 8 + len(header)
    readers: dict[str, Callable[[], Tensor]] = {
        place.name: safetensors_files.InFile(path, place, start) for place in places
    }
    return readers, metadata or {}, None if usual else header


def torch_source(path: Path, key: str | None = None) -> Source:
    """The tensors of a torch checkpoint, mapped into memory if its format allows that.

    Args:
        path: of a mapping of names to tensors, or one that has such a mapping within it.
        key: where in it the tensors are.

    Raises:
        FormatError: it is damaged, or has code in it; that is never run.
        ConfigError: there are no tensors.
        FileNotFoundError: there is none.
    """
    state, skipped = _choose(path, torch_content(path), key)
    readers = {name: partial(_same, tensor) for name, tensor in state.items()}
    return Source(path, readers, path.stat().st_size, {}, skipped, on_demand=False)


def terse_source(path: Path) -> Source:
    """The tensors of a `.terse` file, all of them in memory: tied ones are one object.

    Raises:
        FormatError, FileNotFoundError: as `load`.
    """
    readers = {name: partial(_same, tensor) for name, tensor in load(path).items()}
    metadata = metadata_of(path)
    return Source(path, readers, path.stat().st_size, metadata, on_demand=False)


def torch_content(path: Path) -> object:
    """What a torch checkpoint holds, its tensors mapped into memory if its format allows that.

    Raises:
        FormatError: it is damaged, or has code in it; that is never run.
        FileNotFoundError: there is none.
    """
    require_content(path)
    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"  # older formats cannot be mapped
    try:
        return torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path}: more than tensors and plain data, and code in a file is never run "
            f"({str(error).splitlines()[0]}). Save model.state_dict() alone"
        ) from error
    except Exception as error:  # torch raises whatever its unpickler met
        raise FormatError(f"{path}: not a torch checkpoint, or damaged ({error})") from error


def require_content(path: Path) -> None:
    """Raise FormatError if a file only says where its content is."""
    with path.open("rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise FormatError(
                f"{path}: a pointer of Git LFS, not the file itself. Fetch it: git lfs pull"
            )


def _same(tensor: Tensor) -> Tensor:
    return tensor


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


def _names(loaded: Mapping[Any, Any]) -> str:
    names = [f"{k} ({type(v).__name__})" for k, v in list(loaded.items())[:8]]
    return ", ".join(names) + (", ..." if len(loaded) > 8 else "") or "nothing"

"""A folder as one source of tensors: those of its files, and its other files by their bytes."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError
from tersor.store.header import check_metadata
from tersor.store.layout import (
    FOLDER,
    FolderLayout,
    KeptFile,
    TensorFile,
    check_paths,
    squeeze,
)
from tersor.store.sources import (
    TORCH_SUFFIXES,
    Source,
    require_content,
    safetensors_content,
    torch_content,
)
from tersor.store.words import require_plain

Readers = Mapping[str, Callable[[], Tensor]]

# A file up to this length is deflated, if that makes it shorter by a tenth.
_DEFLATED_BYTES = 1 << 26
_LEFT_OUT = {".git": "of version control", ".cache": "of a download"}


def folder_source(folder: Path, *, leave_out: Path | None = None) -> Source:
    """All files of a folder, first the tensors of its safetensors files and torch checkpoints.

    A checkpoint that is more than names and tensors (an optimizer's state) is kept as any other
    file is: by its bytes. Where two files have a name in common, the names of the second get its
    path as a prefix.

    Args:
        folder: its subfolders are of it; `.git` and `.cache` are left out.
        leave_out: a file that is not of it.

    Returns:
        A source with the layout as its metadata.

    Raises:
        ConfigError: there are no files, or one that is no regular file or lies outside.
        FormatError: a safetensors file is damaged, or an index names what is not there.
    """
    paths, skipped = _files(folder, leave_out)
    check_paths(list(paths))
    parts = [_part(path, file) for path, file in paths.items()]
    parts.sort(key=lambda part: isinstance(part[0], KeptFile))  # stable
    _require_shards(paths, {file.path: r for file, r in parts if isinstance(file, TensorFile)})
    files: list[TensorFile | KeptFile] = []
    readers: dict[str, Callable[[], Tensor]] = {}
    for file, own in parts:
        prefix = "" if isinstance(file, TensorFile) else "file:"
        while any(prefix + name in readers for name in own):
            prefix = f"{file.path}:{prefix}"
        if isinstance(file, TensorFile):
            file = file.model_copy(update={"prefix": prefix})
        files.append(file)
        readers |= {prefix + name: read for name, read in own.items()}
    layout = FolderLayout(files=files).model_dump(mode="json", exclude_defaults=True)
    num_bytes = sum(file.stat().st_size for file in paths.values())
    return Source(folder, readers, num_bytes, {FOLDER: layout}, skipped)


def _files(folder: Path, leave_out: Path | None) -> tuple[dict[str, Path], dict[str, str]]:
    """The files by their paths within the folder, sorted, and what is left out."""
    found: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            skipped |= {name: _LEFT_OUT[name] for name in folders if name in _LEFT_OUT}
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
        if not folders and not names and Path(place) != folder:
            skipped[Path(place).relative_to(folder).as_posix()] = "an empty folder"
        for name in names + [name for name in folders if Path(place, name).is_symlink()]:
            path = Path(place, name)
            within = path.relative_to(folder).as_posix()
            if leave_out is not None and path.resolve() == leave_out.resolve():
                skipped[within] = "the target itself"
            else:
                _require_regular(path, folder)
                found[within] = path
    if not found:
        raise ConfigError(f"{folder}: a folder without files")
    return {within: found[within] for within in sorted(found)}, skipped


def _require_regular(path: Path, folder: Path) -> None:
    """A link may lead to a file of the folder, or to the blobs of a Hugging Face cache."""
    if path.is_symlink():
        real, inside = path.resolve(), [folder.resolve()]
        if folder.resolve().parent.name == "snapshots":
            inside.append(folder.resolve().parents[1] / "blobs")
        if not any(real.is_relative_to(place) for place in inside):
            raise ConfigError(
                f"{path}: a link out of the folder, to {str(real)!r}. Copy the file here if it is "
                "to be packed"
            )
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigError(f"{path}: no regular file (a device, a pipe, or a link to a folder)")


def _part(path: str, file: Path) -> tuple[TensorFile | KeptFile, Readers]:
    """What the layout says of a file, and its tensors."""
    with contextlib.suppress(ConfigError):  # what cannot be a tensor here is kept as bytes
        if file.suffix == ".safetensors":
            readers, metadata, header = safetensors_content(file)
            if header is None:
                return TensorFile(path=path, tensors=len(readers), metadata=metadata), readers
            return TensorFile(path=path, tensors=len(readers), header=squeeze(header)), readers
        if file.suffix in TORCH_SUFFIXES:
            require_content(file)
            return _torch_part(path, file)
    return _kept_part(path, file)


def _torch_part(path: str, file: Path) -> tuple[TensorFile, Readers]:
    """Of a checkpoint that is names and plain tensors and nothing else; ConfigError otherwise."""
    try:
        state = torch_content(file)
    except FormatError as error:  # code that is not run, or another kind of file
        raise ConfigError(str(error)) from None
    if not isinstance(state, dict) or not state:
        raise ConfigError(f"{file}: no mapping of names to tensors")
    readers: dict[str, Callable[[], Tensor]] = {}
    first: dict[object, int] = {}
    ties: list[list[int]] = []
    for number, (name, value) in enumerate(state.items()):
        tensor = require_plain(value)
        if not isinstance(name, str):
            raise ConfigError(f"{file}: {name!r} is no name")
        readers[name] = partial(_itself, tensor)
        memory = (tensor.data_ptr(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
        earlier = first.setdefault((*memory, tensor.shape, tensor.stride()), number)
        if earlier != number and tensor.numel():
            ties.append([number, earlier])
    versions = getattr(state, "_metadata", None)
    try:
        if versions is not None:
            versions = check_metadata(versions)
        part = TensorFile(path=path, tensors=len(state), ties=ties, versions=versions)
    except (TypeError, ValueError) as error:  # more than the versions of modules
        raise ConfigError(f"{file}: {error}") from None
    return part, readers


def _kept_part(path: str, file: Path) -> tuple[KeptFile, Readers]:
    num_bytes = file.stat().st_size
    if num_bytes <= _DEFLATED_BYTES:
        data = file.read_bytes()
        squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
        deflated = squeezer.compress(data) + squeezer.flush()
        if len(deflated) < 0.9 * len(data):
            tensor = torch.frombuffer(bytearray(deflated), dtype=torch.uint8)
            kept = KeptFile(path=path, bytes=len(data), deflated=True)
            return kept, {path: partial(_itself, tensor)}
    return KeptFile(path=path, bytes=num_bytes), {path: partial(_mapped, file, num_bytes)}


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _mapped(file: Path, num_bytes: int) -> Tensor:
    if num_bytes == 0:  # nothing cannot be mapped
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(os.fspath(file), shared=False, size=num_bytes, dtype=torch.uint8)


def _require_shards(paths: Mapping[str, Path], tensors: Mapping[str, Collection[str]]) -> None:
    """See that all is there that the indices of Hugging Face's sharded checkpoints name.

    Args:
        tensors: the names in each file of tensors.
    """
    for path, file in paths.items():
        if not path.endswith(".index.json"):
            continue
        try:
            shards = json.loads(file.read_bytes())["weight_map"]
            pairs = [(str(name), str(shard)) for name, shard in shards.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # an index of something else
        for name, shard in pairs:
            beside = f"{path.rpartition('/')[0]}/{shard}".removeprefix("/")
            if beside not in paths:
                raise FormatError(f"{file}: names {shard!r}, which is not there. Fetch all shards")
            if beside in tensors and name not in tensors[beside]:
                raise FormatError(f"{file}: {name!r} is not in {shard!r}")

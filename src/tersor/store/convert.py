"""From and to the files of others: safetensors, torch checkpoints, whole folders of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError
from tersor.core.files import aside, replacing
from tersor.core.report import Report, Value
from tersor.store.folders import folder_source
from tersor.store.layout import FOLDER, HEADER, FolderLayout, KeptFile, layout_of
from tersor.store.loading import Reader, open_
from tersor.store.restoring import write_folder, write_safetensors, write_torch
from tersor.store.safetensors_files import octets_of
from tersor.store.saving import save
from tersor.store.sources import (
    TENSOR_SUFFIXES,
    Source,
    require_suffix,
    safetensors_source,
    terse_source,
    torch_source,
)
from tersor.store.words import dtype_name

PathLike = str | os.PathLike[str]
Watch = Callable[[str, float], None]
Base = Mapping[str, Tensor] | PathLike

READ_BACK = "Lossless: every tensor has been read back and compared, bit for bit."


def pack(
    source: PathLike,
    target: PathLike,
    *,
    key: str | None = None,
    base: Base | None = None,
    fast: bool = False,
    verify: bool = True,
    watch: Watch | None = None,
) -> Report:
    """Write a checkpoint, or a whole folder, as a `.terse` file; every tensor keeps every bit.

    Args:
        source: a `.safetensors` file (it comes back byte for byte); a torch checkpoint `.pt`,
            `.pth`, `.bin`, `.ckpt`: names to tensors, or an object that has such a mapping as
            `state_dict`, `model_state_dict` or `model`; nothing in it is executed. A folder, as
            those of Hugging Face: `unpack` makes it again, with all of its files. Or a `.terse`
            file, that is written anew; all of it is held in memory.
        target: the `.terse` file.
        key: where in a torch checkpoint the tensors are.
        base: as in `save`; tensors by name, or a file or folder of them.
        fast: as in `save`.
        verify: read the written file back and compare every bit, before it takes its place.
        watch: told the name of each tensor that is begun or compared, and the share of all work
            that is done.

    Returns:
        The report of `save`; what was not packed is listed as skipped.

    Raises:
        ConfigError: the suffix is unknown, there are no tensors, or one that cannot be stored.
        FormatError: the file is damaged, or has code in it.
        StorageError: the target cannot be written.
    """
    tensors = _source(Path(source), key, Path(target))
    metadata = tensors.metadata
    half = 0.5 if verify else 1.0
    with opened_base(base) as under, aside(target) as path:
        count = _counted(watch, tensors.num_bytes, 0.0, half)
        report = save(tensors, path, metadata=metadata, base=under, fast=fast, watch=count)
        if verify:
            _compare(tensors, path, under, _counted(watch, tensors.num_bytes, half, 1.0))
    return dataclasses.replace(
        report,
        title=f"Packed {source} as {target}",
        summary={"source bytes": tensors.num_bytes, **report.summary},
        skipped=tensors.skipped,
        notes=[READ_BACK] if verify else [],
    )


def unpack(
    source: PathLike,
    target: PathLike,
    *,
    base: Base | None = None,
    watch: Watch | None = None,
) -> Report:
    """Write the tensors of a `.terse` file as a plain checkpoint, or as the folder that they were.

    No more than one tensor is held at a time, but for torch checkpoints all of one file.

    Args:
        source: a `.terse` file.
        target: `.safetensors` (metadata kept, what is no text as JSON; tied tensors become
            separate) or `.pt`, `.pth`, `.bin`, `.ckpt` (tied tensors stay tied; there is no
            metadata). Any other name is that of a folder, if the file was packed from one.
        base: that of `pack`.
        watch: told the name of each tensor that is begun, and the share of all work that is done.

    Raises:
        ConfigError: the suffix is unknown, or safetensors has no such dtype.
        FormatError: as `load`.
        StorageError: the target cannot be written.
    """
    target = Path(target)
    with opened_base(base) as under, open_(source, base=under) as reader:
        layout = _layout(reader.metadata, source)
        try:
            if layout is not None and target.suffix not in TENSOR_SUFFIXES:
                return _unpack_folder(source, reader, layout, target, watch)
            require_suffix(target, TENSOR_SUFFIXES)
            return _unpack_file(source, reader, layout, target, under, watch)
        except FormatError as error:
            if str(error).startswith(os.fspath(source)):
                raise
            raise FormatError(f"{source}: {error}. Nothing was written") from error


def read_tensors(path: PathLike, *, key: str | None = None) -> OrderedDict[str, Tensor]:
    """The tensors of a `.terse` or `.safetensors` file, a torch checkpoint or a folder, by name.

    Args, Raises: as `load` and `pack`.
    """
    tensors = _source(Path(path), key, None)
    layout = _layout(tensors.metadata, path)
    names = list(tensors) if layout is None else layout.weights(list(tensors))
    return OrderedDict((name, tensors[name]) for name in names)


@contextlib.contextmanager
def opened_base(base: Base | None) -> Iterator[Mapping[str, Tensor] | None]:
    """The tensors of a base by name, read as they are asked for.

    Args:
        base: them, or a file or folder that has them; of a folder also its other files.

    Raises:
        ConfigError, FormatError, FileNotFoundError: as `pack`.
    """
    if base is None or isinstance(base, Mapping):
        yield base
    elif Path(base).suffix == ".terse" and not Path(base).is_dir():
        with open_(base) as reader:
            yield reader
    else:
        yield _source(Path(base), None, None)


def _source(path: Path, key: str | None, target: Path | None) -> Source:
    if key is not None and (path.is_dir() or path.suffix in (".safetensors", ".terse")):
        raise ConfigError(f"{path}: key {key!r}, but only a torch checkpoint has keys to choose")
    if path.is_dir():
        return folder_source(path, leave_out=target)
    if path.suffix == ".terse":
        return terse_source(path)
    require_suffix(path, TENSOR_SUFFIXES)
    return safetensors_source(path) if path.suffix == ".safetensors" else torch_source(path, key)


def _counted(
    watch: Watch | None, total: int, first: float = 0.0, last: float = 1.0
) -> Callable[[str, int], None]:
    """A watch of tensors by their bytes, for one of the share that is done, from first to last."""
    done = 0

    def count(name: str, num_bytes: int) -> None:
        nonlocal done
        if watch is not None:
            watch(name, first + (last - first) * min(done / max(total, 1), 1.0))
        done += num_bytes

    return count


def _compare(
    tensors: Source,
    path: Path,
    base: Mapping[str, Tensor] | None,
    count: Callable[[str, int], None],
) -> None:
    with open_(path, base=base) as reader:
        if list(reader) != list(tensors) or reader.metadata != dict(tensors.metadata):
            raise FormatError(f"{tensors.path}: names or metadata do not come back as they were")
        for name in tensors:
            found = reader[name]
            count(name, found.numel() * found.itemsize)
            same = (found.dtype, tuple(found.shape)) == tensors.kind(name) and all(
                np.array_equal(a, b)
                for a, b in zip(octets_of(found), tensors.octets(name), strict=True)
            )
            if not same:
                raise FormatError(
                    f"{tensors.path}: {name!r} does not come back as it was, so nothing was "
                    "written. Memory or disk may be faulty, or another program writes to the file"
                )
            del found  # before the next one is decoded


def _layout(metadata: Mapping[str, Any], source: PathLike) -> FolderLayout | None:
    try:
        return layout_of(metadata)
    except FormatError as error:
        raise FormatError(f"{source}: {error}. Nothing was written") from error


def _unpack_folder(
    source: PathLike,
    reader: Reader,
    layout: FolderLayout,
    target: Path,
    watch: Watch | None,
) -> Report:
    with aside(target, folder=True) as path:
        rows = write_folder(reader, _watched(reader, list(reader), watch), layout, path)
    summary: dict[str, Value] = {
        "bytes": sum(int(row["bytes"] or 0) for row in rows),
        "files": len(rows),
        "tensors": len(layout.weights(list(reader))),
    }
    return Report(f"Unpacked {source} as {target}", summary, rows)


def _unpack_file(
    source: PathLike,
    reader: Reader,
    layout: FolderLayout | None,
    target: Path,
    base: Mapping[str, Tensor] | None,
    watch: Watch | None,
) -> Report:
    names, skipped, notes = list(reader), dict[str, str](), list[str]()
    metadata = {k: v for k, v in reader.metadata.items() if k != FOLDER or layout is None}
    if layout is not None:
        names = layout.weights(names)
        skipped = {
            file.path: "no tensors: give the name of a folder as the target to have it again"
            for file in layout.files
            if isinstance(file, KeptFile)
        }
    header = metadata.pop(HEADER, None) if isinstance(metadata.get(HEADER), dict) else None
    read = _watched(reader, names, watch)
    with replacing(target) as file:
        if target.suffix == ".safetensors":
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
            old = None if header is None else header.get("deflated")
            write_safetensors(file, reader, read, names, texts, header=old)
            if tied := [name for name in names if name in reader.ties]:
                notes.append(f"Now separate, since safetensors has no ties: {', '.join(tied)}.")
        else:
            write_torch(file, _state(reader, read, names))
            if metadata:
                skipped["metadata"] = "a torch checkpoint of tensors has no place for it"
    rows: list[dict[str, Value]] = [
        {
            "name": name,
            "dtype": dtype_name(reader.dtype(name)),
            "shape": "x".join(map(str, reader.shape(name))) or "scalar",
            "bytes": math.prod(reader.shape(name)) * reader.dtype(name).itemsize,
        }
        for name in names
    ]
    summary: dict[str, Value] = {"file bytes": target.stat().st_size, "tensors": len(names)}
    return Report(f"Unpacked {source} as {target}", summary, rows, skipped, notes)


def _watched(reader: Reader, names: list[str], watch: Watch | None) -> Callable[[str], Tensor]:
    """A way to read these tensors that tells how far it is."""
    sizes = {name: math.prod(reader.shape(name)) * reader.dtype(name).itemsize for name in names}
    count = _counted(watch, sum(sizes.values()))

    def read(name: str) -> Tensor:
        count(name, sizes[name])
        return reader[name]

    return read


def _state(
    reader: Reader, read: Callable[[str], Tensor], names: list[str]
) -> OrderedDict[str, Tensor]:
    ties = reader.ties
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name in names:
        state[name] = state[ties[name]] if name in ties else read(name)
    return state

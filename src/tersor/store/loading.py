"""Read a file back: every tensor as it was, or nothing."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, FormatError
from tersor.core.report import Report
from tersor.store.container import Base, Opened, machine_memory, opened
from tersor.store.entries import Repeated, Stored
from tersor.store.layout import layout_of
from tersor.store.part_entries import PartEntries
from tersor.store.words import dtype_name, twin

Model = TypeVar("Model", bound=nn.Module)


@overload
def load(
    path: str | os.PathLike[str], *, into: None = None, base: Base | None = None
) -> OrderedDict[str, Tensor]: ...
@overload
def load(path: str | os.PathLike[str], *, into: Model, base: Base | None = None) -> Model: ...
def load(
    path: str | os.PathLike[str], *, into: Model | None = None, base: Base | None = None
) -> OrderedDict[str, Tensor] | Model:
    """Read all tensors of a `.terse` file, on the CPU, with as many threads as torch has.

    Args:
        path: the file.
        into: a model to be filled. Names, shapes and dtypes must be exactly its own; otherwise
            nothing of it is changed.
        base: the tensors that the file was made against, if it was.

    Returns:
        The state dict, or the model.

    Raises:
        FormatError: the file is damaged, or no `.terse` file, or a newer one, or it is a difference
            to another base.
        ConfigError: the model has other tensors; the first one is named.
        FileNotFoundError: there is no such file.
    """
    with opened(path, base=base) as file:
        _check_memory(file)
        if into is None:
            return _read(file)
        # Of a folder the other files are no weights.
        layout = layout_of(file.header.metadata)
        kinds = _kinds(file)
        names = list(kinds) if layout is None else layout.weights(list(kinds))
        _require_same(into, {name: kinds[name] for name in names}, str(file.path))
        state = _read(file)
    return load_into(into, {name: state[name] for name in names}, source=file.path)


def load_into(
    model: Model, tensors: Mapping[str, Tensor], *, source: str | os.PathLike[str] = "state dict"
) -> Model:
    """Fill a model with tensors whose names, shapes and dtypes are exactly its own.

    Args:
        model: filled in place, or not changed at all.
        tensors: as from `model.state_dict()`.
        source: where they come from, for the error message.

    Raises:
        ConfigError: the model has other tensors; the first one is named.
    """
    kinds = {name: _kind(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    _require_same(model, kinds, os.fspath(source))
    state = OrderedDict(tensors)
    # The modules' own versions: without them load_state_dict takes the tensors for old ones.
    state._metadata = getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    model.load_state_dict(state)
    return model


class Reader(Mapping[str, Tensor]):
    """The tensors of an open file, each decoded when it is asked for, alone and anew.

    Tied tensors are equal here, but not one object. Closed, it gives none.
    """

    on_demand = True

    def __init__(self, file: Opened) -> None:
        self._file = file
        self._entries = {entry.name: entry for entry in file.header.entries}

    def __getitem__(self, name: str) -> Tensor:
        return self._file.tensor(self._file.header.source(self._entries[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self, name: str) -> Iterator[PartEntries]:
        """What a tensor holds, part by part as it lies in the file; the tensor is not made for it.

        A tensor that is a difference to the base comes as values at every place.

        Raises:
            FormatError: when the damaged part is asked for.

        >>> import tempfile
        >>> from tersor.store import save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weight = torch.zeros(64, 64)
        ...     weight[::3, ::5], weight[::7, 1] = 0.5, -1.0
        ...     report = save({"w": weight}, f"{folder}/x.terse", fast=True)
        ...     with open_(f"{folder}/x.terse") as file:
        ...         for part in file.entries("w"):
        ...             print(part.begin, part.count, part.positions[:4], part.codes[:4])
        ...             print(part.codebook, part.values)
        0 4096 tensor([ 0,  1,  5, 10]) tensor([0, 1, 0, 0], dtype=torch.uint8)
        tensor([ 0.5000, -1.0000]) None
        """
        return self._file.entries(self._file.header.source(self._entries[name]))

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's metadata, `{}` if there is none."""
        return dict(self._file.header.metadata)

    @property
    def ties(self) -> dict[str, str]:
        """The names that are tied, each to the name of the tensor that it is."""
        header = self._file.header
        return {
            entry.name: header.source(entry).name
            for entry in header.entries
            if isinstance(entry, Repeated) and entry.tied
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not decoded for it."""
        return self._file.header.source(self._entries[name]).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, which is not decoded for it."""
        return self._file.header.source(self._entries[name]).dtype


@contextlib.contextmanager
def open_(path: str | os.PathLike[str], *, base: Base | None = None) -> Iterator[Reader]:
    """Open a `.terse` file without decoding anything.

    Raises:
        FormatError, FileNotFoundError: as `load`; for a damaged tensor when it is asked for.

    >>> import tempfile
    >>> from tersor.store import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = save({"a": torch.ones(2, 3), "b": torch.zeros(4)}, f"{folder}/x.terse")
    ...     with open_(f"{folder}/x.terse") as file:
    ...         print(list(file), file.shape("a"), file["b"])
    ['a', 'b'] (2, 3) tensor([0., 0., 0., 0.])
    """
    with opened(path, base=base) as file:
        yield Reader(file)


def verify(path: str | os.PathLike[str], *, base: Base | None = None) -> Report:
    """Decode every tensor of a `.terse` file and check all that can be checked.

    No more than one tensor is held at a time.

    Raises:
        FormatError: something is wrong; the first tensor where it is is named.
        FileNotFoundError: there is no such file.
    """
    with opened(path, base=base) as file:
        stored = [entry for entry in file.header.entries if isinstance(entry, Stored)]
        for entry in stored:
            _run(file.begin(entry)[1])
        return Report(
            f"Verified {path}: every checksum fits, and every tensor decodes",
            {
                "file bytes": file.file_bytes,
                "version": file.version,
                "tensors": len(file.header.entries),
                "stored tensors": len(stored),
                "dense bytes": file.header.dense_bytes,
                "differences to the base": sum(entry.base is not None for entry in stored),
            },
        )


def _read(file: Opened) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict()
    jobs: list[Callable[[], None]] = []
    for entry in file.header.entries:
        if isinstance(entry, Stored):
            state[entry.name], fill = file.begin(entry)
            jobs += fill
    _run(jobs)
    for entry in file.header.entries:
        if isinstance(entry, Repeated):
            source = state[file.header.source(entry).name]
            state[entry.name] = source if entry.tied else twin(source)
        else:
            state.move_to_end(entry.name)
    return state


def _run(jobs: list[Callable[[], None]]) -> None:
    """Run all jobs, in as many threads as torch has; the first error ends it."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads < 2:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for future in running:
                future.result()
        finally:
            for future in running:
                future.cancel()


def _check_memory(file: Opened) -> None:
    """What is larger than the machine's memory is not even begun."""
    memory = machine_memory()
    if memory is not None and file.header.dense_bytes > memory:
        raise FormatError(
            f"{file.path}: tensors of {file.header.dense_bytes} bytes cannot be allocated, "
            f"the machine has {memory}. Nothing was loaded"
        )


def _kinds(file: Opened) -> dict[str, str]:
    """What each tensor of a file is, known from its header alone."""
    sources = {entry.name: file.header.source(entry) for entry in file.header.entries}
    return {name: _kind(source.dtype, source.shape) for name, source in sources.items()}


def _require_same(model: nn.Module, kinds: Mapping[str, str], source: str) -> None:
    name_of_model = type(model).__name__
    target = model.state_dict()
    for name, value in target.items():
        if name not in kinds:
            raise ConfigError(f"{source}: has no tensor {name!r}, which {name_of_model} needs")
        if not isinstance(value, Tensor):
            raise ConfigError(f"{source}: {name!r} is no tensor in {name_of_model}")
        there = _kind(value.dtype, tuple(value.shape))
        if kinds[name] != there:
            raise ConfigError(
                f"{source}: {name!r} is {kinds[name]}, but {there} in {name_of_model}"
            )
    for name in kinds:
        if name not in target:
            raise ConfigError(f"{source}: {name!r} has no place in {name_of_model}")


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{dtype_name(dtype)} {list(shape)}"

"""Read a file back: every tensor as it was, or nothing."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, FormatError
from tersor.store.container import Opened, opened
from tersor.store.header import Repeated
from tersor.store.words import dtype_name, twin

Model = TypeVar("Model", bound=nn.Module)


@overload
def load(path: str | os.PathLike[str], *, into: None = None) -> OrderedDict[str, Tensor]: ...
@overload
def load(path: str | os.PathLike[str], *, into: Model) -> Model: ...
def load(
    path: str | os.PathLike[str], *, into: Model | None = None
) -> OrderedDict[str, Tensor] | Model:
    """Read all tensors of a `.terse` file, on the CPU.

    Args:
        path: the file.
        into: a model to be filled. Names, shapes and dtypes must be exactly its own; otherwise
            nothing of it is changed.

    Returns:
        The state dict, or the model.

    Raises:
        FormatError: the file is damaged, or no `.terse` file, or a newer one.
        ConfigError: the model has other tensors; the first one is named.
        FileNotFoundError: there is no such file.
    """
    with opened(path) as file:
        _check_memory(file)
        if into is None:
            return _read(file)
        _require_same(into, _kinds(file), str(file.path))
        state = _read(file)
    return load_into(into, state, source=file.path)


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


def _read(file: Opened) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict()
    for entry in file.header.entries:
        if isinstance(entry, Repeated):
            source = state[file.header.source(entry).name]
            state[entry.name] = source if entry.tied else twin(source)
        else:
            state[entry.name] = file.tensor(entry)
    return state


def _check_memory(file: Opened) -> None:
    """What is larger than the machine's memory is not even begun."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return
    if file.header.dense_bytes > memory:
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

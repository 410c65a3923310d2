"""How large a model is: values, non-zeros, distinct values and bytes of each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class TensorSize:
    """The values of one tensor of a state dict.

    Args:
        name: its key.
        shape: its dimensions.
        values: how many values it has.
        nonzeros: how many are not zero (NaN is not, -0.0 is).
        distinct: how many are different from each other (-0.0 equals 0.0, no NaN equals another).
        num_bytes: of the plain tensor; 0 for a tied one, as its bytes are there already.
        buffer: it is no parameter (a running mean, say); False where a state dict cannot tell.
        tied_to: the name of the same tensor further up, or None.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    nonzeros: int
    distinct: int
    num_bytes: int
    buffer: bool = False
    tied_to: str | None = None

    @property
    def density(self) -> float:
        """Share of the values that are not zero; 1 for an empty tensor."""
        return self.nonzeros / self.values if self.values else 1.0


@dataclass(frozen=True)
class Size:
    """The tensors of a model and their totals; a tensor with two names counts once.

    Args:
        tensors: one entry a name, in the order of the state dict.
        skipped: name of an entry that is no tensor, to the reason.
    """

    tensors: tuple[TensorSize, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Values of all parameters, biases too; of all tensors if it was a state dict."""
        return sum(t.values for t in self._parameters())

    @property
    def nonzeros(self) -> int:
        """Those of the parameters that are not zero."""
        return sum(t.nonzeros for t in self._parameters())

    @property
    def density(self) -> float:
        """Share of the parameters that are not zero, biases too; 1 without parameters."""
        return self.nonzeros / self.parameters if self.parameters else 1.0

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors, buffers too, as a plain file holds them, without its header."""
        return sum(t.num_bytes for t in self.tensors)

    def _parameters(self) -> list[TensorSize]:
        return [t for t in self.tensors if t.tied_to is None and not t.buffer]


def size(model: nn.Module | Mapping[str, Any]) -> Size:
    """Measure a model or a state dict as it stands.

    Raises:
        ConfigError: a tensor has no values to look at (meta device), or is not dense in memory.

    >>> layer = nn.Linear(4, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> weight = size(layer).tensors[0]
    >>> weight.name, weight.density, weight.distinct, size(layer).dense_bytes
    ('weight', 0.25, 2, 40)
    """
    buffers: set[str] = set()
    state: Mapping[str, Any]
    if isinstance(model, nn.Module):
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        state = model.state_dict()
    else:
        state = model
    first: dict[tuple[Any, ...], str] = {}
    tensors: list[TensorSize] = []
    skipped: dict[str, str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            skipped[name] = f"is a {type(value).__name__}, no tensor"
            continue
        nonzeros, distinct = _count(name, value)
        tied_to = first.setdefault(_identity(value), name) if value.numel() else name
        tensors.append(
            TensorSize(
                name,
                tuple(value.shape),
                value.numel(),
                nonzeros,
                distinct,
                value.numel() * value.element_size() if tied_to == name else 0,
                name in buffers,
                tied_to if tied_to != name else None,
            )
        )
    return Size(tuple(tensors), skipped)


def file_bytes(path: str | os.PathLike[str]) -> int:
    """The size of a file as the operating system tells it.

    Raises:
        DataError: there is no such file.
    """
    try:
        if Path(path).is_file():
            return Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    raise DataError(f"{path}: there is no such file")


def _count(name: str, tensor: Tensor) -> tuple[int, int]:
    """Non-zeros and distinct values."""
    if tensor.is_meta:
        raise ConfigError(f"size: {name!r} is on the meta device and has no values; load it first")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else tensor.layout
        raise ConfigError(f"size: {name!r} is {kind}, expected a dense tensor of plain values")
    try:
        values = _comparable(tensor.detach()).reshape(-1)
        if values.is_complex():
            pairs = torch.view_as_real(values)  # (N, 2)
            distinct = torch.unique(pairs, dim=0) if len(pairs) else pairs
        else:
            distinct = torch.unique(values)
        return int(torch.count_nonzero(values)), len(distinct)
    except NotImplementedError as error:
        raise ConfigError(
            f"size: {name!r} is {tensor.dtype}, whose values torch cannot compare"
        ) from error


def _comparable(tensor: Tensor) -> Tensor:
    """The tensor in a type that torch can sort, as many values and as many zeros."""
    if tensor.is_floating_point() and tensor.element_size() < 4:
        return tensor.float()  # holds every smaller float exactly
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    return tensor.view(signed[tensor.dtype]) if tensor.dtype in signed else tensor


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same values in the same memory."""
    start = tensor.untyped_storage().data_ptr()
    place = (tensor.device, start, tensor.storage_offset())
    return (*place, tensor.dtype, tensor.shape, tensor.stride())

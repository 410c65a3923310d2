"""Weights from a file: whole tensors, or entries that go straight to kernel storage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.run.packing import Entries, coded


class Part(Protocol):
    """What a part of a stored tensor holds, as `tersor.open_(...).entries` yields it."""

    @property
    def begin(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def positions(self) -> Tensor | None: ...
    @property
    def codes(self) -> Tensor | None: ...
    @property
    def codebook(self) -> Tensor | None: ...
    @property
    def values(self) -> Tensor | None: ...


class Weights(Protocol):
    """Where weights are read from: a `.terse` file that `tersor.open_` opened."""

    def entries(self, name: str) -> Iterator[Part]: ...

    def __getitem__(self, name: str) -> Tensor: ...


def fill(work: nn.Module, weights: Weights, without: set[str]) -> None:
    """Read the tensors of the model, but for some, into memory of their own."""
    for owner_name, owner in work.named_modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, old in tensors.items():
                full = f"{owner_name}.{name}" if owner_name else name
                if old is None or full in without or name in owner._non_persistent_buffers_set:
                    continue
                new = _read(weights, full)
                if new.shape != old.shape:
                    raise ConfigError(
                        f"deploy: {full!r} is {tuple(new.shape)} in the file, and the model's is "
                        f"{tuple(old.shape)}"
                    )
                if tensors is owner._parameters:
                    tensors[name] = nn.Parameter(new, requires_grad=False)
                else:
                    tensors[name] = new
    require_values(work, without)


def require_values(work: nn.Module, without: set[str] | None = None) -> None:
    """Raise ConfigError if a tensor, but for some, is on the meta device."""
    for name, tensor in (*work.named_parameters(), *work.named_buffers()):
        if tensor.is_meta and name not in (without or ()):
            raise ConfigError(
                f"deploy: {name!r} is on the meta device, and no file has its values; make the "
                "model on the CPU, or give weights that have them"
            )


def _read(weights: Weights, name: str) -> Tensor:
    try:
        return weights[name]
    except KeyError:
        raise ConfigError(f"deploy: the file has no tensor {name!r}, which the model has") from None


def stored_entries(weights: Weights, name: str, shape: torch.Size) -> Entries:
    """The entries of a stored float32 weight as a matrix (rows, the rest)."""
    rows, count = shape[0], math.prod(shape)
    positions, values = [], []
    try:
        parts = weights.entries(name)
    except KeyError:
        raise ConfigError(f"deploy: the file has no tensor {name!r}, which the model has") from None
    seen = 0
    for part in parts:
        of_part = part.values
        if part.codes is not None and part.codebook is not None:
            of_part = part.codebook[part.codes.int()]
        if of_part is None:
            raise ConfigError(f"deploy: {name!r} has neither values nor codes in the file")
        if of_part.dtype != torch.float32:
            raise ConfigError(f"deploy: {name!r} is {of_part.dtype} in the file, not torch.float32")
        kept = of_part.nonzero().squeeze(1)  # a file may have -0.0 among its entries
        at = kept if part.positions is None else part.positions[kept]
        of_part = of_part[kept]
        positions.append((at + part.begin).numpy())
        values.append(of_part.numpy())
        seen = part.begin + part.count
    if seen != count:
        raise ConfigError(
            f"deploy: {name!r} has {seen} values in the file, the model's has {count}"
        )
    return coded(rows, count // rows, np.concatenate(positions), np.concatenate(values))

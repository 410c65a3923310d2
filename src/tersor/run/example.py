"""What a model is called with while it is deployed, and how far apart two outputs are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Of one call, without and with names."""


def arguments(example: Tensor | tuple[Any, ...] | Mapping[str, Any]) -> Arguments:
    """The arguments of a call. ConfigError: none of them is a tensor, or it is not on the CPU."""
    if isinstance(example, Mapping):
        given: Arguments = ((), dict(example))
    else:
        given = (example if isinstance(example, tuple) else (example,), {})
    first = next(_tensors(given), None)
    if first is None:
        raise ConfigError("deploy: the example input has no tensor")
    if not first.is_cpu:
        raise ConfigError(f"deploy: the example input is on {first.device}, expected the CPU")
    return given


def checked_sizes(sizes: Iterable[int] | None, example: Arguments) -> tuple[int, ...]:
    """The batch sizes that were asked for, each once; None = that of the example.

    Raises:
        ConfigError: one is below 1, or the example has no sample that could be repeated.
    """
    first = next(_tensors(example))
    if sizes is None:
        return (first.shape[0] if first.dim() else 1,)
    checked = tuple(dict.fromkeys(sizes))
    if not checked or min(checked) < 1:
        raise ConfigError(f"deploy: batch sizes {checked}, expected numbers of 1 or more")
    if not first.dim() or not first.shape[0]:
        raise ConfigError("deploy: the example input is empty, so that it cannot be repeated")
    return checked


def batch_of(example: Arguments, size: int) -> Arguments:
    """The arguments with so many samples: cut, or repeated from the beginning."""

    def sized(argument: Any) -> Any:
        if not isinstance(argument, Tensor) or not argument.dim() or argument.shape[0] == size:
            return argument
        times = -(-size // argument.shape[0])
        return argument.repeat(times, *[1] * (argument.dim() - 1))[:size]

    args, kwargs = example
    return tuple(map(sized, args)), {name: sized(value) for name, value in kwargs.items()}


def call(model: nn.Module, batch: Arguments) -> Any:
    """The model's output. ConfigError: it does not take this input."""
    try:
        return model(*batch[0], **batch[1])
    except (RuntimeError, TypeError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        shapes = ", ".join(str(tuple(a.shape)) for a in _tensors(batch))
        raise ConfigError(f"deploy: the model does not take inputs of {shapes}: {error}") from error


def copy_of(value: Any) -> Any:
    """The same tensors without what made them; each by itself, so that `is` still holds."""
    memo: dict[int, Tensor] = {}

    def walk(v: Any) -> Any:
        if isinstance(v, Tensor):
            return memo.setdefault(id(v), v.detach().clone())
        if isinstance(v, tuple | list):
            return type(v)(walk(x) for x in v)
        if isinstance(v, dict):
            return {k: walk(x) for k, x in v.items()}
        return v

    return walk(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _tensors(v)


def difference(want: Any, got: Any) -> float:
    """Largest difference of two outputs, relative to the largest value of the first."""
    worst = 0.0
    for a, b in zip(_tensors(want), _tensors(got), strict=True):
        if a.is_floating_point() and a.numel():
            finite = torch.isfinite(a)
            if not torch.equal(finite, torch.isfinite(b)):
                return math.inf
            a, b = a[finite], b[finite]
            gap = (a - b).abs().max().item() if a.numel() else 0.0
            worst = max(worst, gap / max(a.abs().max().item(), 1e-30) if gap else 0.0)
    return worst

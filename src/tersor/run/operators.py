"""The kernels as torch operators, `torch.ops.tersor`: compile, export and other tracing need them.

A plain call does without (`tersor.run.calls`): the dispatcher costs as much as a small layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tersor.run.calls import (
    Call,
    Matrix,
    convolution,
    csr_linear,
    linear,
    max_pool,
    out_sides,
    rows_of,
)


def traced(x: Tensor) -> bool:
    """Whether a call must be seen by the dispatcher: compile, export, fake tensors, jit.trace."""
    return (
        type(x) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
    )


_WEIGHT = "Tensor packed, SymInt rows, SymInt columns"
_FINISH = "Tensor? scale, Tensor? bias, int activation"
_LINEAR = f"(Tensor x, {_WEIGHT}, {_FINISH}) -> Tensor"


def _linear_of(matrix: Matrix) -> Callable[..., Tensor]:
    return lambda x, *weight: linear(x, Call.of(matrix, *weight))


def _convolution(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *finish: Any,
) -> Tensor:
    call = Call.of("sparse", packed, rows, columns, *finish)
    return convolution(x, call, kernel, stride, padding, dilation)


def _rows_of(ids: Tensor, packed: Tensor, rows: int, columns: int) -> Tensor:
    return rows_of(ids, Call.of("sparse", packed, rows, columns, None, None, 0))


# ---- shapes of what they give, for tensors without values


def _fake_linear(x: Tensor, packed: Tensor, rows: int, columns: int, *_: Any) -> Tensor:
    torch._check(x.shape[-1] == columns, lambda: f"expected (*, {columns})")
    return x.new_empty((*x.shape[:-1], rows))


def _fake_csr(
    x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, width: int, bias: Tensor | None
) -> Tensor:
    torch._check(x.shape[-1] == width, lambda: f"expected (*, {width})")
    return x.new_empty((*x.shape[:-1], starts.shape[0] - 1))


def _fake_convolution(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sides = out_sides(x.shape[-2:], kernel, stride, padding, dilation)
    return x.new_empty((*x.shape[:-3], rows, *sides))


def _fake_rows(ids: Tensor, packed: Tensor, rows: int, columns: int) -> Tensor:
    return ids.new_empty((*ids.shape, columns), dtype=torch.float32)


def _fake_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    return x.new_empty((*x.shape[:-2], *out_sides(x.shape[-2:], kernel, stride, padding, (1, 1))))


_LIBRARY = torch.library.Library("tersor", "DEF")


def define(
    name: str, schema: str, kernel: Callable[..., object], fake: Callable[..., object]
) -> None:
    """Make `torch.ops.tersor.<name>`: what it does on the CPU, and the shapes that it gives."""
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"tersor::{name}", fake, lib=_LIBRARY)


define("sparse_linear", _LINEAR, _linear_of("sparse"), _fake_linear)
define("codes_linear", _LINEAR, _linear_of("codes"), _fake_linear)
define(
    "csr_linear",
    "(Tensor x, Tensor values, Tensor columns, Tensor starts, SymInt width, Tensor? bias) "
    "-> Tensor",
    csr_linear,
    _fake_csr,
)
define(
    "sparse_convolution",
    f"(Tensor x, {_WEIGHT}, int[] kernel, int[] stride, int[] padding, int[] dilation, {_FINISH}) "
    "-> Tensor",
    _convolution,
    _fake_convolution,
)
define("sparse_rows", f"(Tensor ids, {_WEIGHT}) -> Tensor", _rows_of, _fake_rows)
define(
    "max_pool",
    "(Tensor x, int[] kernel, int[] stride, int[] padding) -> Tensor",
    max_pool,
    _fake_pool,
)

"""The kernels as torch operators, `torch.ops.tersor`, so that compile and export see through them.

A plain call goes straight to the kernel, since the dispatcher costs as much as a small layer; under
tracing the operator is called instead. All take float32 on the CPU, are not differentiable, use
`torch.get_num_threads()` threads, and give the same bits for any number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError

Activation = Literal["none", "relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "gelu", "gelu_tanh", "silu")

Matrix = Literal["sparse", "codes"]
_LINEAR = {"sparse": _native.sparse_linear, "codes": _native.codes_linear}


def linear(
    matrix: Matrix,
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    """activation((x @ weight.T) * scale + bias).

    Shapes: x (*, columns) -> (*, rows); scale, bias (rows,).

    Raises:
        ConfigError: x is of another dtype, device or width, or needs a gradient.
    """
    if _traced(x):
        operator = getattr(torch.ops.tersor, f"{matrix}_linear")
        return operator(x, packed, rows, columns, scale, bias, activation)  # type: ignore[no-any-return]
    if x.requires_grad and torch.is_grad_enabled():
        raise ConfigError(_NO_GRADIENT)
    return _linear(matrix, x, packed, rows, columns, scale, bias, activation)


def convolution(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    """activation(conv2d(x, weight) * scale + bias).

    Shapes: x (N, C, H, W) or (C, H, W) -> (N, rows, H', W') or without N; scale, bias (rows,).

    Raises:
        ConfigError: x is of another dtype, device or number of channels, needs a gradient, or is
            smaller than the kernel.
    """
    if _traced(x):
        return torch.ops.tersor.sparse_convolution(  # type: ignore[no-any-return]
            x, packed, rows, columns, kernel, stride, padding, dilation, scale, bias, activation
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise ConfigError(_NO_GRADIENT)
    return _convolution(
        x, packed, rows, columns, kernel, stride, padding, dilation, scale, bias, activation
    )


def rows_of(ids: Tensor, packed: Tensor, rows: int, columns: int) -> Tensor:
    """The rows of a sparse matrix that stand at `ids`.

    Shapes: ids (*) of int64 or int32 -> (*, columns).

    Raises:
        ConfigError: ids of another dtype or device.
        IndexError: an id that is no row.
    """
    if _traced(ids):
        return torch.ops.tersor.sparse_rows(ids, packed, rows, columns)  # type: ignore[no-any-return]
    return _rows(ids, packed, rows, columns)


_NO_GRADIENT = (
    "x needs a gradient, and a deployed layer cannot be trained; call it under torch.no_grad(), or "
    "train the plain model and deploy it again"
)


def _traced(x: Tensor) -> bool:
    """Whether a call must be seen by the dispatcher: compile, export, fake tensors, jit.trace."""
    return (
        type(x) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
    )


def _require(x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype != dtype or not x.is_cpu:
        raise ConfigError(f"input of {x.dtype} on {x.device}, expected {dtype} on the CPU")


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _linear(
    matrix: str,
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    _require(x, torch.float32)
    shape = x.shape
    if len(shape) == 0 or shape[-1] != columns:
        raise ConfigError(f"input of shape {tuple(shape)}, expected (*, {columns})")
    x = x.contiguous()
    out = x.new_empty((*shape[:-1], rows))
    if out.numel():
        _LINEAR[matrix](
            packed.data_ptr(),
            packed.numel(),
            x.data_ptr(),
            out.numel() // rows,
            out.data_ptr(),
            _address(scale),
            _address(bias),
            activation,
            torch.get_num_threads(),
        )
    return out


def out_sides(
    sides: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Height and width of a convolution's output.

    Raises:
        ConfigError: the kernel does not fit into the padded image.
    """
    out = []
    for side, k, s, p, d in zip(sides, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        if isinstance(side, int) and side + 2 * p < reach:
            raise ConfigError(
                f"an image of {tuple(sides)} pixels, padded by {tuple(padding)}, is smaller than "
                f"the kernel's {reach}"
            )
        out.append((side + 2 * p - reach) // s + 1)
    return out


def _convolution(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    _require(x, torch.float32)
    channels = columns // (kernel[0] * kernel[1])
    if x.dim() not in (3, 4) or x.shape[-3] != channels:
        raise ConfigError(f"input of shape {tuple(x.shape)}, expected (N, {channels}, H, W)")
    x = x.contiguous()
    sides = out_sides(x.shape[-2:], kernel, stride, padding, dilation)
    out = x.new_empty((*x.shape[:-3], rows, *sides))
    if out.numel():
        _native.sparse_convolution(
            packed.data_ptr(),
            packed.numel(),
            x.data_ptr(),
            x.shape[0] if x.dim() == 4 else 1,
            *x.shape[-3:],
            *kernel,
            *stride,
            *padding,
            *dilation,
            out.data_ptr(),
            _address(scale),
            _address(bias),
            activation,
            torch.get_num_threads(),
        )
    return out


def _rows(ids: Tensor, packed: Tensor, rows: int, columns: int) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32) or not ids.is_cpu:
        raise ConfigError(f"ids of {ids.dtype} on {ids.device}, expected torch.int64 on the CPU")
    ids = ids.to(torch.int64).contiguous()
    out = torch.empty((*ids.shape, columns))
    if out.numel():
        _native.sparse_rows(
            packed.data_ptr(),
            packed.numel(),
            ids.data_ptr(),
            ids.numel(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
    return out


_LINEAR_SCHEMA = (
    "(Tensor x, Tensor packed, SymInt rows, SymInt columns, Tensor? scale, Tensor? bias, "
    "int activation) -> Tensor"
)
_CONVOLUTION_SCHEMA = (
    "(Tensor x, Tensor packed, SymInt rows, SymInt columns, int[] kernel, int[] stride, "
    "int[] padding, int[] dilation, Tensor? scale, Tensor? bias, int activation) -> Tensor"
)


def _sparse_linear(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    return _linear("sparse", x, packed, rows, columns, scale, bias, activation)


def _codes_linear(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    return _linear("codes", x, packed, rows, columns, scale, bias, activation)


def _fake_linear(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    torch._check(x.shape[-1] == columns, lambda: f"expected (*, {columns})")
    return x.new_empty((*x.shape[:-1], rows))


def _fake_convolution(
    x: Tensor,
    packed: Tensor,
    rows: int,
    columns: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    scale: Tensor | None,
    bias: Tensor | None,
    activation: int,
) -> Tensor:
    sides = out_sides(x.shape[-2:], kernel, stride, padding, dilation)
    return x.new_empty((*x.shape[:-3], rows, *sides))


def _fake_rows(ids: Tensor, packed: Tensor, rows: int, columns: int) -> Tensor:
    return ids.new_empty((*ids.shape, columns), dtype=torch.float32)


LIBRARY = torch.library.Library("tersor", "DEF")
for _name, _schema, _kernel, _fake in (
    ("sparse_linear", _LINEAR_SCHEMA, _sparse_linear, _fake_linear),
    ("codes_linear", _LINEAR_SCHEMA, _codes_linear, _fake_linear),
    ("sparse_convolution", _CONVOLUTION_SCHEMA, _convolution, _fake_convolution),
    (
        "sparse_rows",
        "(Tensor ids, Tensor packed, SymInt rows, SymInt columns) -> Tensor",
        _rows,
        _fake_rows,
    ),
):
    LIBRARY.define(_name + _schema)
    LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"tersor::{_name}", _fake, lib=LIBRARY)

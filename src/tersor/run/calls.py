"""The kernels as functions of tensors: inputs are checked, outputs made, the kernel called.

All take float32 on the CPU, are not differentiable, use `torch.get_num_threads()` threads, and give
the same bits for any number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tersor import _native
from tersor.core.errors import ConfigError

Activation = Literal["none", "relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "gelu", "gelu_tanh", "silu")

Matrix = Literal["sparse", "codes"]


class Call(NamedTuple):
    """A weight and what follows it by the addresses of the tensors; 0 = there is none.

    `kept` shares their memory, so that an address stays good whatever becomes of the tensors.
    """

    coded: bool
    packed: int
    size: int
    scale: int
    bias: int
    activation: int
    rows: int
    columns: int
    kept: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        packed: Tensor,
        rows: int,
        columns: int,
        scale: Tensor | None,
        bias: Tensor | None,
        activation: int,
    ) -> Call:
        """The call of a weight of these sides, with a scale and a bias of its rows.

        Raises:
            ConfigError: the bytes hold another matrix, or a scale or bias is of another shape.
        """
        _require_sides(matrix, packed, rows, columns)
        for name, vector in (("scale", scale), ("bias", bias)):
            if vector is not None and (vector.shape != (rows,) or vector.dtype != torch.float32):
                found = f"{name} of {vector.dtype}, {tuple(vector.shape)}"
                raise ConfigError(f"{found}, expected torch.float32, ({rows},)")
        kept = tuple(t.detach() for t in (packed, scale, bias) if t is not None)
        addresses = (packed.data_ptr(), packed.numel(), _address(scale), _address(bias))
        return cls(matrix == "codes", *addresses, activation, rows, columns, kept)


def _require_sides(matrix: Matrix, packed: Tensor, rows: int, columns: int) -> None:
    """Raise ConfigError unless the bytes hold a matrix of this kind and of these sides."""
    shape_of = _native.codes_shape if matrix == "codes" else _native.sparse_shape
    try:
        sides = shape_of(packed.data_ptr(), packed.numel())[:2]
    except ValueError as error:
        raise ConfigError(f"packed weight: {error}") from None
    if sides != (rows, columns):
        raise ConfigError(f"packed weight of {sides}, expected {(rows, columns)}")


def refuse_gradient(x: Tensor) -> None:
    """Raise ConfigError if a backward pass is asked for."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ConfigError(
            "x needs a gradient, and a deployed layer cannot be trained; call it under "
            "torch.no_grad(), or train the plain model and deploy it again"
        )


def linear(x: Tensor, call: Call) -> Tensor:
    """activation((x @ weight.T) * scale + bias).

    Shapes: x (*, columns) -> (*, rows); scale, bias (rows,).

    Raises:
        ConfigError: x is of another dtype, device or width.
    """
    rows = call.rows
    x = _checked(x, call.columns)
    out = x.new_empty((*x.shape[:-1], rows))
    batch = out.numel() // rows
    if batch:
        native = _native.codes_linear if call.coded else _native.sparse_linear
        native(
            call.packed,
            call.size,
            x.data_ptr(),
            batch,
            out.data_ptr(),
            call.scale,
            call.bias,
            call.activation,
            torch.get_num_threads(),
        )
    return out


def chain(x: Tensor, calls: Sequence[Call]) -> Tensor:
    """Linear layers one after another; as `linear`."""
    rows = calls[-1].rows
    x = _checked(x, calls[0].columns)
    out = x.new_empty((*x.shape[:-1], rows))
    batch = out.numel() // rows
    if batch:
        links = [call[:6] for call in calls]
        threads = torch.get_num_threads()
        _native.linear_chain(links, x.data_ptr(), batch, out.data_ptr(), threads)
    return out


def csr_linear(
    x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, width: int, bias: Tensor | None
) -> Tensor:
    """x @ weight.T + bias by torch's own sparse rows.

    Shapes: x (*, width) -> (*, rows); values, columns (entries,); starts (rows + 1,); bias (rows,).

    Raises:
        ConfigError: x is of another dtype, device or width.
    """
    x = _checked(x, width)
    rows = starts.numel() - 1
    weight = torch.sparse_csr_tensor(starts, columns, values, (rows, width), check_invariants=False)
    out = (weight @ x.reshape(-1, width).t()).t()
    out = out if bias is None else out + bias
    return out.reshape(*x.shape[:-1], rows).contiguous()


def convolution(
    x: Tensor,
    call: Call,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """activation(conv2d(x, weight) * scale + bias).

    Shapes: x (N, C, H, W) or (C, H, W) -> (N, rows, H', W') or without N; scale, bias (rows,).

    Raises:
        ConfigError: x is of another dtype, device or number of channels, or smaller than the
            kernel.
    """
    x = _checked_image(x, call.columns // (kernel[0] * kernel[1]))
    sides = out_sides(x.shape[-2:], kernel, stride, padding, dilation)
    out = x.new_empty((*x.shape[:-3], call.rows, *sides))
    if out.numel():
        _native.sparse_convolution(
            call.packed,
            call.size,
            x.data_ptr(),
            x.shape[0] if x.dim() == 4 else 1,
            *x.shape[-3:],  # type: ignore[call-arg]
            *kernel,
            *stride,
            *padding,
            *dilation,
            out.data_ptr(),
            call.scale,
            call.bias,
            call.activation,
            torch.get_num_threads(),
        )
    return out


def max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The largest value of each window; NaN where it has one.

    Shapes: x (N, C, H, W) or (C, H, W) -> (N, C, H', W') or without N.

    Raises:
        ConfigError: x is of another dtype, device or number of dimensions, or smaller than the
            kernel.
    """
    x = _checked_image(x, None)
    sides = out_sides(x.shape[-2:], kernel, stride, padding, (1, 1))
    out = x.new_empty((*x.shape[:-2], *sides))
    if out.numel():
        planes = out.numel() // (sides[0] * sides[1])
        shape = (*x.shape[-2:], *kernel, *stride, *padding)
        threads = torch.get_num_threads()
        _native.max_pool(x.data_ptr(), planes, *shape, out.data_ptr(), threads)  # type: ignore[call-arg]
    return out


def rows_of(ids: Tensor, call: Call) -> Tensor:
    """The rows of a sparse weight that stand at `ids`.

    Shapes: ids (*) of int64 or int32 -> (*, columns).

    Raises:
        ConfigError: ids of another dtype or device.
        IndexError: an id that is no row.
    """
    if ids.dtype not in (torch.int64, torch.int32) or not ids.is_cpu:
        raise ConfigError(f"ids of {ids.dtype} on {ids.device}, expected torch.int64 on the CPU")
    ids = ids.to(torch.int64).contiguous()
    out = torch.empty((*ids.shape, call.columns))
    if out.numel():
        threads = torch.get_num_threads()
        _native.sparse_rows(
            call.packed, call.size, ids.data_ptr(), ids.numel(), out.data_ptr(), threads
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


def require(x: Tensor, name: str = "input", dtype: torch.dtype = torch.float32) -> None:
    """Raise ConfigError unless x is of this dtype and on the CPU."""
    if x.dtype != dtype or not x.is_cpu:
        raise ConfigError(f"{name} of {x.dtype} on {x.device}, expected {dtype} on the CPU")


def _checked(x: Tensor, columns: int) -> Tensor:
    require(x)
    shape = x.shape
    if not shape or shape[-1] != columns:
        raise ConfigError(f"input of shape {tuple(shape)}, expected (*, {columns})")
    return x.contiguous()


def _checked_image(x: Tensor, channels: int | None) -> Tensor:
    require(x)
    if x.dim() not in (3, 4) or channels not in (None, x.shape[-3]):
        expected = f"(N, {'C' if channels is None else channels}, H, W)"
        raise ConfigError(f"input of shape {tuple(x.shape)}, expected {expected}")
    return x.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

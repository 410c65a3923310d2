"""Layers whose weights lie in kernel storage, in the place of torch's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tersor import _native
from tersor.run import calls
from tersor.run.calls import ACTIVATIONS, Activation, Call, Matrix
from tersor.run.deployed import OfOneTensor


class DeployedLinear(OfOneTensor):
    """activation((x @ weight.T) * scale + bias), the weight being sparse or of few values.

    Shapes: (*, in_features) -> (*, out_features).

    Args:
        matrix: how `packed` is laid out.
        packed: bytes of the weight, from `pack_sparse`, `pack_codes`, `pack_row_codes` or
            `pack_integers`.
        out_features, in_features: sides of the weight.
        row_scale: (out_features,), the weight is `packed` times it; None = 1.
        scale, bias: (out_features,) or None.
    """

    packed: Tensor
    packed_scale: Tensor | None
    scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        kernel: str,
        matrix: Matrix,
        packed: Tensor,
        out_features: int,
        in_features: int,
        *,
        row_scale: Tensor | None = None,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        activation: Activation = "none",
    ) -> None:
        super().__init__(name, kernel)
        self.matrix: Matrix = matrix
        self.out_features, self.in_features = out_features, in_features
        self.activation = activation
        self._activation = ACTIVATIONS.index(activation)
        self.register_buffer("packed", packed)
        self.register_buffer("packed_scale", _vector(row_scale))
        self.register_buffer("scale", _vector(scale))
        self.register_buffer("bias", _vector(bias))

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features), made from the storage."""
        full = dense_of(self.matrix, self.packed, self.out_features, self.in_features)
        return _product(self.packed_scale, full)

    def call(self) -> Call:
        """The layer by the addresses of its tensors."""
        return Call.of(self.matrix, *self._weight())

    def _prepare(self) -> Call:
        return self.call()

    def _run(self, x: Tensor) -> Tensor:
        return calls.linear(x, self._prepared)

    def _operator(self, x: Tensor) -> Tensor:
        return getattr(torch.ops.tersor, f"{self.matrix}_linear")(x, *self._weight())  # type: ignore[no-any-return]

    def _weight(self) -> tuple[Tensor, int, int, Tensor | None, Tensor | None, int]:
        sides = (self.out_features, self.in_features)
        scale = _of_rows(self.packed_scale, self.scale)
        return self.packed, *sides, scale, self.bias, self._activation

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, kernel={self.kernel}, activation={self.activation}"
        )


class DeployedConv2d(OfOneTensor):
    """activation(conv2d(x, weight) * scale + bias) with a sparse weight; zeros around the image.

    Shapes: (N, C, H, W) -> (N, out_channels, H', W'), and without N.

    Args:
        packed: bytes of the weight, (out_channels, C * kernel height * kernel width).
        groups: of the layer that it replaces; in `packed` the other groups' weights are zero.
        row_scale: (out_channels,), the weight is `packed` times it; None = 1.
    """

    packed: Tensor
    packed_scale: Tensor | None
    scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        kernel: str,
        packed: Tensor,
        layer: nn.Conv2d,
        *,
        padding: tuple[int, int],
        row_scale: Tensor | None = None,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        activation: Activation = "none",
    ) -> None:
        super().__init__(name, kernel)
        self.out_channels, self.in_channels = layer.out_channels, layer.in_channels
        self.kernel_size = (layer.kernel_size[0], layer.kernel_size[1])
        self.stride = (layer.stride[0], layer.stride[1])
        self.dilation = (layer.dilation[0], layer.dilation[1])
        self.padding = padding
        self.groups = layer.groups
        self.activation = activation
        self._activation = ACTIVATIONS.index(activation)
        self._columns = layer.in_channels * self.kernel_size[0] * self.kernel_size[1]
        self.register_buffer("packed", packed)
        self.register_buffer("packed_scale", _vector(row_scale))
        self.register_buffer("scale", _vector(scale))
        self.register_buffer("bias", _vector(bias))

    @property
    def weight(self) -> Tensor:
        """(out_channels, C / groups, kh, kw), made from the storage."""
        full = dense_of("sparse", self.packed, self.out_channels, self._columns)
        full = _product(self.packed_scale, full)
        full = full.view(self.groups, self.out_channels // self.groups, self.groups, -1)
        own = torch.stack([full[g, :, g] for g in range(self.groups)])
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return own.reshape(shape)

    def _prepare(self) -> Call:
        return Call.of("sparse", *self._weight(), *self._finish())

    def _run(self, x: Tensor) -> Tensor:
        return calls.convolution(x, self._prepared, *self._geometry())

    def _operator(self, x: Tensor) -> Tensor:
        arguments = (*self._weight(), *self._geometry(), *self._finish())
        return torch.ops.tersor.sparse_convolution(x, *arguments)  # type: ignore[no-any-return]

    def _weight(self) -> tuple[Tensor, int, int]:
        return self.packed, self.out_channels, self._columns

    def _finish(self) -> tuple[Tensor | None, Tensor | None, int]:
        return _of_rows(self.packed_scale, self.scale), self.bias, self._activation

    def _geometry(self) -> tuple[tuple[int, int], ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, kernel={self.kernel}, activation={self.activation}"
        )


class DeployedChain(OfOneTensor):
    """Linear layers that follow each other, in one call: a small layer costs less than a call.

    Shapes: (*, in_features of the first) -> (*, out_features of the last).
    """

    def __init__(self, layers: Sequence[DeployedLinear]) -> None:
        super().__init__(layers[0].name, "chain")
        self.layers = nn.ModuleList(layers)
        self.layers.training = False

    def _prepare(self) -> list[Call]:
        return [layer.call() for layer in self.layers]  # type: ignore[operator]

    def _run(self, x: Tensor) -> Tensor:
        return calls.chain(x, self._prepared)

    def _operator(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class DeployedMaxPool2d(OfOneTensor):
    """Max pooling without the indices that torch makes for a backward pass.

    Shapes: (N, C, H, W) -> (N, C, H', W'), and without N.
    """

    def __init__(self, name: str, pool: nn.MaxPool2d) -> None:
        super().__init__(name, "pool")
        stride = pool.kernel_size if pool.stride is None else pool.stride
        self._sizes = tuple(_pair(v) for v in (pool.kernel_size, stride, pool.padding))

    def _run(self, x: Tensor) -> Tensor:
        return calls.max_pool(x, *self._sizes)

    def _operator(self, x: Tensor) -> Tensor:
        return torch.ops.tersor.max_pool(x, *self._sizes)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        kernel, stride, padding = self._sizes
        return f"kernel_size={kernel}, stride={stride}, padding={padding}"


class DeployedEmbedding(OfOneTensor):
    """Rows of a sparse table.

    Shapes: ids (*) -> (*, embedding_dim).
    """

    packed: Tensor

    def __init__(
        self, name: str, kernel: str, packed: Tensor, num_embeddings: int, embedding_dim: int
    ) -> None:
        super().__init__(name, kernel)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.register_buffer("packed", packed)

    @property
    def weight(self) -> Tensor:
        """(num_embeddings, embedding_dim), made from the storage."""
        return dense_of("sparse", self.packed, self.num_embeddings, self.embedding_dim)

    def _prepare(self) -> Call:
        return Call.of("sparse", *self._table(), None, None, 0)

    def _run(self, x: Tensor) -> Tensor:
        return calls.rows_of(x, self._prepared)

    def _operator(self, x: Tensor) -> Tensor:
        return torch.ops.tersor.sparse_rows(x, *self._table())  # type: ignore[no-any-return]

    def _table(self) -> tuple[Tensor, int, int]:
        return self.packed, self.num_embeddings, self.embedding_dim

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, kernel={self.kernel}"


class CsrLinear(OfOneTensor):
    """x @ weight.T + bias by torch's own sparse rows with 32-bit indices.

    Shapes: (*, in_features) -> (*, out_features).
    """

    packed_values: Tensor
    packed_columns: Tensor
    packed_starts: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(name, "csr")
        self.out_features, self.in_features = weight.shape
        positions = weight.nonzero()
        starts = torch.zeros(self.out_features + 1, dtype=torch.int32)
        starts[1:] = positions[:, 0].bincount(minlength=self.out_features).cumsum(0)
        with warnings.catch_warnings():
            # torch tells once a process that sparse rows are in beta.
            warnings.simplefilter("ignore", UserWarning)
            torch.zeros(1, 1).to_sparse_csr()
        self.register_buffer("packed_values", weight[positions[:, 0], positions[:, 1]])
        self.register_buffer("packed_columns", positions[:, 1].to(torch.int32))
        self.register_buffer("packed_starts", starts)
        self.register_buffer("bias", _vector(bias))

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features), made from the storage."""
        shape = (self.out_features, self.in_features)
        rows = torch.sparse_csr_tensor(
            self.packed_starts,
            self.packed_columns,
            self.packed_values,
            shape,
            check_invariants=False,
        )
        return rows.to_dense()

    def _refused(self, given: Mapping[str, Tensor], assign: bool) -> list[str]:
        found = super()._refused(given, assign)
        starts, columns, values = (
            given.get(f"packed_{part}") for part in ("starts", "columns", "values")
        )
        if not found and starts is not None and columns is not None and values is not None:
            shape = (self.out_features, self.in_features)
            try:
                torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=True)
            except RuntimeError as error:
                found.append(f"packed: {error}")
        return found

    def _run(self, x: Tensor) -> Tensor:
        return calls.csr_linear(x, *self._weight())

    def _operator(self, x: Tensor) -> Tensor:
        return torch.ops.tersor.csr_linear(x, *self._weight())  # type: ignore[no-any-return]

    def _weight(self) -> tuple[Tensor, Tensor, Tensor, int, Tensor | None]:
        parts = (self.packed_values, self.packed_columns, self.packed_starts)
        return *parts, self.in_features, self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kernel=csr"


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def dense_of(matrix: Matrix, packed: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix that packed bytes stand for, (rows, columns)."""
    out = torch.zeros(rows, columns)
    unpack: dict[str, Any] = {"sparse": _native.sparse_dense, "codes": _native.codes_dense}
    unpack[matrix](packed.data_ptr(), packed.numel(), out.data_ptr())
    return out


def _product(row_scale: Tensor | None, matrix: Tensor) -> Tensor:
    return matrix if row_scale is None else matrix * row_scale.unsqueeze(1)


def _of_rows(row_scale: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """What the sums of the rows are multiplied with."""
    if row_scale is None or scale is None:
        return scale if row_scale is None else row_scale
    return row_scale * scale


def _vector(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().to(torch.float32).contiguous().clone()

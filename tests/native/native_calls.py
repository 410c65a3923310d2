"""The kernels called with tensors, and float64's answer to hold them against."""

import numpy as np
import torch

from tersor import _native
from tersor.run.packing import coded, pack_sparse

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
TRUTHS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse_matrix(rows, columns, *, density=0.2, values=None, seed=0):
    """A matrix with zeros, of so many distinct values, or of as many as it has weights."""
    draws = np.random.default_rng(seed)
    dense = draws.normal(size=(rows, columns)).astype(np.float32)
    if values is not None:
        book = draws.normal(size=values).astype(np.float32)
        dense = book[draws.integers(values, size=(rows, columns))]
        dense.flat[:values] = book[: dense.size]
    kept = draws.random((rows, columns)) < density
    kept.flat[: values or 0] = True
    return torch.from_numpy(np.where(kept, dense, np.float32(0)))


def address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def linear(packed, x, rows, *, scale=None, bias=None, activation="none", threads=1, coded=False):
    out = torch.full((len(x), rows), torch.nan)
    native = _native.codes_linear if coded else _native.sparse_linear
    native(
        packed.data_ptr(),
        packed.numel(),
        x.data_ptr(),
        len(x),
        out.data_ptr(),
        address(scale),
        address(bias),
        ACTIVATIONS.index(activation),
        threads,
    )
    return out


def packed_directly(matrix, *, tile, row_block=None):
    """A matrix whose entries have their values beside them, however few there are."""
    flat = matrix.flatten().numpy()
    at = np.flatnonzero(flat)
    entries = coded(*matrix.shape, at, flat[at])
    return pack_sparse(
        type(entries)(*matrix.shape, at, None, None, flat[at]), tile=tile, row_block=row_block
    )


def error(got, want):
    """Largest difference from float64's output, as a share of its largest value."""
    assert got.dtype == torch.float32
    assert want.dtype == torch.float64
    return ((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-30)).item()

"""TensorLy's decompositions, for tensors of torch: done in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tersor.core.errors import MissingExtraError


def tensorly() -> Any:
    """The library with its module of decompositions.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise MissingExtraError("this decomposition", "tensorly", "factorize") from error
    return tensorly


def tucker_2(weight: Tensor, ranks: Sequence[int], sweeps: int) -> list[Tensor]:
    """The core (R_out, R_in, *kernel) and the factors (out, R_out) and (in, R_in)."""
    (core, factors), _ = tensorly().decomposition.partial_tucker(
        _array(weight), rank=list(ranks), modes=[0, 1], n_iter_max=sweeps, tol=1e-10
    )
    return [_tensor(part, weight) for part in (core, *factors)]


def tucker(tensor: Tensor, ranks: Sequence[int], sweeps: int) -> list[Tensor]:
    """The core and a factor for each side."""
    core, factors = tensorly().decomposition.tucker(
        _array(tensor), rank=list(ranks), n_iter_max=sweeps, tol=1e-10
    )
    return [_tensor(part, tensor) for part in (core, *factors)]


def cp(weight: Tensor, rank: int, sweeps: int, seed: int) -> list[Tensor]:
    """A factor (side, rank) for each side; the weights of the terms are in the first one."""
    library = tensorly()
    init = "svd" if rank <= min(weight.shape) else "random"
    found, factors = library.decomposition.parafac(
        _array(weight), rank, n_iter_max=sweeps, init=init, tol=1e-10, random_state=seed
    )
    factors = [factors[0] * found, *factors[1:]]
    return [_tensor(factor, weight) for factor in factors]


def tensor_train(
    matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int], rank: int
) -> list[Tensor]:
    """Cores (r, out_k, in_k, r') of a matrix (prod out_k, prod in_k), each r at most `rank`."""
    shaped = matrix.reshape(*outputs, *inputs)
    cores = tensorly().decomposition.tensor_train_matrix(
        _array(shaped), rank=[1, *[rank] * (len(outputs) - 1), 1]
    )
    return [_tensor(core, matrix) for core in cores]


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()


def _tensor(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(like)

"""The mathematics of the optimal brain surgeon, for many blocks at once.

A block is a set of weights w with curvature H, so that the loss rises by d^T H d / 2 when they
change by d. Everything here is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError


def inverse_curvature(vectors: Tensor, samples: int, damping: float) -> Tensor:
    """The inverse of damping I + (1 / samples) * sum v v^T, by Woodbury's identity.

    H_{m+1}^-1 = H_m^-1 - H_m^-1 V^T (samples I + V H_m^-1 V^T)^-1 V H_m^-1,   H_0^-1 = I / damping

    V holds a part of the vectors, at most as many as a block has weights; with one vector a part
    it is the recursion of the paper.

    Shapes: (blocks, vectors, n) -> (blocks, n, n).

    Source: Hassibi and Stork 1993, NIPS 5, eq. 9, several vectors at a time.

    >>> inverse_curvature(torch.tensor([[[2.0, 0.0]]]), samples=1, damping=1.0)
    tensor([[[0.2000, 0.0000],
             [0.0000, 1.0000]]], dtype=torch.float64)
    """
    blocks, _, size = vectors.shape
    inverse = torch.eye(size, dtype=torch.double, device=vectors.device) / damping
    inverse = inverse.repeat(blocks, 1, 1)
    for part in vectors.double().split(max(size, 1), 1):  # (blocks, m, n)
        products = part @ inverse
        inner = products @ part.mT
        inner.diagonal(dim1=1, dim2=2).add_(samples)
        inverse -= products.mT @ torch.cholesky_solve(products, factor(inner))
    return inverse


def inverse_diagonal(vectors: Tensor, samples: int, damping: float) -> Tensor:
    """The diagonal of `inverse_curvature`; with few vectors the rest of it is never made.

    Shapes: (blocks, vectors, n) -> (blocks, n).
    """
    if vectors.shape[1] >= vectors.shape[2]:
        return inverse_curvature(vectors, samples, damping).diagonal(dim1=1, dim2=2)
    vectors = vectors.double()
    inner = vectors @ vectors.mT / damping
    inner.diagonal(dim1=1, dim2=2).add_(samples)
    roots: Tensor = torch.linalg.solve_triangular(factor(inner), vectors, upper=False)  # (b, m, n)
    return (1 - roots.square().sum(1) / damping) / damping


def losses(weights: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """What the loss rises by when one weight goes and the others make up for it.

    L_q = w_q**2 / (2 [H^-1]_qq)

    Source: Hassibi and Stork 1993, NIPS 5, eq. 5.
    """
    return weights.double().square() / (2 * inverse_diagonal)


def repaired(weights: Tensor, kept: Tensor, curvature: Tensor) -> Tensor:
    """The weights of one block that make up best for those that are not kept, which become 0.

    w'_S = H_SS^-1 (H w)_S, S what is kept. It is the joint update
    d = -H^-1 E (E^T H^-1 E)^-1 w_q of all that go, E their unit vectors, and for H = X^T X / n the
    least-squares fit of X w by the columns that are left.

    Shapes: (n,), bool (n,), (n, n) -> (n,).

    Source: Hassibi and Stork 1993, NIPS 5, eq. 5, for several weights at once.

    >>> curvature = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> repaired(torch.tensor([4.0, 2.0]), torch.tensor([True, False]), curvature).tolist()
    [5.0, 0.0]
    """
    curvature, weights = curvature.double(), weights.double()
    return _fitted(kept, curvature[kept] @ weights, curvature[kept][:, kept])


def repaired_by_vectors(
    weights: Tensor, kept: Tensor, vectors: Tensor, samples: int, damping: float
) -> Tensor:
    """As `repaired`, with H = damping I + (1 / samples) * sum v v^T, of which H_SS alone is made.

    Shapes: (n,), bool (n,), (vectors, n) -> (n,).
    """
    vectors, weights = vectors.double(), weights.double()
    left = vectors[:, kept]
    moment = left.T @ (vectors @ weights) / samples + damping * weights[kept]
    curvature = left.T @ left / samples
    curvature.diagonal().add_(damping)
    return _fitted(kept, moment, curvature)


def _fitted(kept: Tensor, moment: Tensor, curvature: Tensor) -> Tensor:
    after = torch.zeros(kept.shape, dtype=torch.double, device=kept.device)
    if len(moment):
        after[kept] = torch.cholesky_solve(moment[:, None], factor(curvature))[:, 0]
    return after


def factor(curvature: Tensor) -> Tensor:
    """The lower Cholesky factor.

    Raises:
        ConfigError: the curvature is singular or not finite.
    """
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(curvature)
    if bool(failed.any()) or not bool(torch.isfinite(lower).all()):
        raise ConfigError(
            f"a curvature matrix of {curvature.shape[-1]} weights has no inverse; raise the "
            "damping or give more samples"
        )
    return lower

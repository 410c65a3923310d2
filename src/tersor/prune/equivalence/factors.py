"""Weight decay on the factors of a vector is a sparse penalty on the vector itself.

min over u_1 * ... * u_k = beta of sum_i |u_i|**2  =  k * sum_j |beta_j|**(2/k), at equal |u_ij|

So a diagonal linear network of two layers with weight decay is the lasso, and one of k layers has
the penalty l_p with p = 2/k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.prune.equivalence.solvers import gradient_flow, minimise

Loss = Callable[[Tensor], Tensor]
"""A vector of coefficients to a scalar. Any loss will do: the equivalence does not look at it."""


def product_of(factors: Sequence[Tensor]) -> Tensor:
    """The coefficients that some factors stand for: their product, entry by entry."""
    return math.prod(factors[1:], start=factors[0])


def balanced_factors(beta: Tensor, depth: int = 2) -> list[Tensor]:
    """The factors of least weight decay: all of size |beta|**(1/depth), the first has the sign.

    Shapes: beta (*), each of the `depth` factors (*).

    >>> [f.tolist() for f in balanced_factors(torch.tensor([-4.0, 0.0, 9.0]))]
    [[-2.0, 0.0, 3.0], [2.0, 0.0, 3.0]]
    """
    size = beta.abs().pow(1 / depth)
    return [beta.sign() * size, *(size.clone() for _ in range(depth - 1))]


def decayed(loss: Loss, factors: Sequence[Tensor], decay: float) -> Tensor:
    """What the network minimises: loss(product) + decay * sum of all squared factors."""
    return loss(product_of(factors)) + decay * sum(f.square().sum() for f in factors)


def penalised(loss: Loss, beta: Tensor, decay: float, depth: int = 2) -> Tensor:
    """What the sparse problem minimises: loss(beta) + depth * decay * sum |beta|**(2 / depth).

    Never above `decayed` of factors with this product, and equal to it where they are balanced.
    With `depth=2` and a squared loss it is the lasso with the penalty 2 * decay * |beta|_1.

    Source: Tibshirani 2021, Equivalences between sparse models and neural networks, section 2;
    Hoff 2017, arXiv 1611.00040, for depth factors; the bound is that of the two means.

    >>> beta, square = torch.tensor([3.0, 0.0]), lambda b: (b - 1).square().sum()
    >>> float(penalised(square, beta, 0.5)), float(decayed(square, balanced_factors(beta), 0.5))
    (8.0, 8.0)
    """
    return loss(beta) + depth * decay * beta.abs().pow(2 / depth).sum()


def train_factors(loss: Loss, start: Sequence[Tensor], decay: float) -> list[Tensor]:
    """Train the network: a local minimum of `decayed` by L-BFGS from these factors.

    For two factors and a convex loss every local minimum is a global one; for more it is not.

    Args:
        loss: differentiable, of the product.
        start: tensors of one shape, float64 for the last digits.
        decay: above 0.

    Raises:
        ConfigError: the decay is not above 0, or in some entry two factors are zero. Of these
            the gradient of the loss is zero for ever.
    """
    if not decay > 0:
        raise ConfigError(f"train_factors: decay {decay}; expected a number above 0")
    stuck = torch.stack([factor == 0 for factor in start]).sum(0) > 1
    if stuck.any():
        raise ConfigError(
            f"train_factors: {int(stuck.sum())} entries start with two factors of zero, "
            "a saddle point that no gradient leaves; expected random values"
        )
    return minimise(lambda factors: decayed(loss, factors, decay), start)


def imbalance(factors: Sequence[Tensor]) -> Tensor:
    """u_1**2 - u_i**2 for each further factor, entry by entry; zero at every minimum.

    Shapes: k factors (*) -> (k - 1, *).
    """
    return torch.stack([factors[0].square() - factor.square() for factor in factors[1:]])


def conservation_error(
    loss: Loss, start: Sequence[Tensor], decay: float, *, time: float, steps: int
) -> float:
    """How far gradient flow is from the law imbalance(t) = exp(-4 * decay * t) * imbalance(0).

    Each u_i**2 changes at the rate -2 beta * loss'(beta) - 4 decay * u_i**2, whose first part is
    the same for all factors. So without decay the imbalance is conserved. That bounds what flow
    can reach: from u_1 = u_2 no coefficient ever becomes negative.

    Args:
        loss, start, decay: as in `train_factors`; a decay of 0 is allowed.
        time, steps: of the flow, as in `gradient_flow`.

    Returns:
        The largest absolute difference; it is that of the integration, O((time / steps)**4).

    Source: Du, Hu and Lee 2018, arXiv 1806.00900, theorem 2.1, with weight decay added.
    """
    end = gradient_flow(lambda f: decayed(loss, f, decay), start, time=time, steps=steps)
    expected = math.exp(-4 * decay * time) * imbalance(start)
    return float((imbalance(end) - expected).abs().max())

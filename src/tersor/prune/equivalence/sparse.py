"""The sparse problems themselves, solved without any factors: the lasso, and l_p entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.prune.equivalence.factors import Loss
from tersor.prune.equivalence.solvers import proximal_gradient
from tersor.prune.learned.proximal import soft_threshold


def lp_threshold(values: Tensor, decay: float, depth: int) -> Tensor:
    """argmin_b (b - v)**2 + depth * decay * |b|**(2 / depth) for each entry, zero in a tie.

    The positive stationary points solve b + decay * b**(2/depth - 1) = v. The left side is convex
    with its minimum at b0 = (decay * (1 - 2/depth))**(depth / (2 * depth - 2)), so the larger root
    lies between b0 and v, where bisection finds it. It is taken where its value is below v**2.

    Args:
        values: of any shape.
        decay: above 0.
        depth: of the network, 2 or more. With 2 it is soft thresholding by `decay`.

    Raises:
        ConfigError: the depth is below 2.

    Source: for depth 4 Xu, Chang, Xu and Zhang 2012, L1/2 regularization: a thresholding
    representation theory, give the root in closed form; tested against that.
    """
    if depth < 2:
        raise ConfigError(f"lp_threshold: depth {depth}; expected 2 or more")
    sizes, power = values.abs(), 2 / depth
    turn = (decay * (1 - power)) ** (1 / (2 - power)) if depth > 2 else 0.0
    low = torch.full_like(sizes, turn).minimum(sizes)
    high = sizes.clone()
    for _ in range(200):  # halved until no number lies between
        middle = (low + high) / 2
        below = middle + decay * middle.pow(power - 1) < sizes
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    value = (high - sizes).square() + depth * decay * high.pow(power)
    return torch.where(value < sizes.square(), values.sign() * high, 0.0)


def lasso(loss: Loss, start: Tensor, decay: float) -> Tensor:
    """argmin_b loss(b) + 2 * decay * |b|_1 for a smooth convex loss, by proximal gradient.

    The reference that knows of no factors, with exact zeros; for a squared loss, scikit-learn's
    `Lasso(alpha=decay / samples, fit_intercept=False)` minimises the same.

    >>> loss = lambda b: (b - torch.tensor([3.0, 0.5])).square().sum()
    >>> lasso(loss, torch.zeros(2), 1.0).tolist()  # soft-thresholded by 1
    [2.0, 0.0]
    """
    [beta] = proximal_gradient(
        lambda x: loss(x[0]),
        lambda x: 2 * decay * x[0].abs().sum(),
        lambda x, step: [soft_threshold(x[0], 2 * decay * step)],
        [start],
    )
    return beta

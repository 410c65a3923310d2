"""The straight-through estimator: rounded forward, backward as if nothing had been rounded.

The true derivative of a rounded value is zero nearly everywhere, and teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tersor.core.tables import look_up
from tersor.quantize.quantizer import Grid

Backward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Values, lowest and highest value of the grid to the factors of their gradients."""


def clipped(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """1 inside the range (its ends included), 0 outside: what clipping alone would give."""
    return ((values >= low) & (values <= high)).to(values.dtype)


def identity(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """1 everywhere."""
    return torch.ones_like(values)


def tanh(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """1 - tanh(x / a)**2 with a the largest absolute value of the grid: fades towards its ends."""
    reach = torch.maximum(low.abs(), high.abs())
    return 1 - (values / reach).tanh().square()


BACKWARDS: dict[str, Backward] = {f.__name__: f for f in (clipped, identity, tanh)}
"""Straight-through rules by name."""


def straight_through(values: Tensor, grid: Grid, backward: str | Backward = "clipped") -> Tensor:
    """Values rounded to a grid, with a gradient: dL/dx = dL/dQ * factor(x).

    Args:
        values: of the shape that the grid is for.
        backward: a name of `BACKWARDS`, or a function.

    Raises:
        ConfigError: the name is unknown.

    Source: Bengio, Leonard and Courville 2013, arXiv 1308.3432, section 4.

    >>> from tersor.quantize import CodebookGrid
    >>> x = torch.tensor([-3.0, 0.4, 0.9], requires_grad=True)
    >>> y = straight_through(x, CodebookGrid(torch.tensor([-1.0, 0.0, 1.0])))
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([-1.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    rule = look_up("backward", backward, BACKWARDS)
    inside = values.detach()
    with torch.no_grad():
        result, factors = grid.round(inside), rule(inside, *grid.bounds())
    return replaced(values, result, factors)


def replaced(values: Tensor, result: Tensor, factors: Tensor) -> Tensor:
    """`result` forward; backward its gradient times `factors`, as the gradient of `values`."""
    found: Tensor = _StraightThrough.apply(values, result, factors)  # type: ignore[no-untyped-call]
    return found


class _StraightThrough(torch.autograd.Function):
    """`result` forward; backward the gradient times `factors`, into `values`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, result: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (factors,) = ctx.saved_tensors
        return gradients[0] * factors, None, None

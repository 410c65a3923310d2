"""How a number that lies between two grid points is rounded, in units of the grid's step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Rounding(Protocol):
    """Numbers to whole numbers (as floats); whole numbers stay what they are."""

    def __call__(self, numbers: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


def nearest(numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """To the nearest whole number, half-way to the even one.

    >>> nearest(torch.tensor([0.5, 1.5, -0.75])).tolist()
    [0.0, 2.0, -1.0]
    """
    return numbers.round()


def floor(numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """To the next whole number that is not greater."""
    return numbers.floor()


def stochastic(numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Up with the fractional part as probability, else down: right on average.

    P(floor(x) + 1) = x - floor(x)

    Args:
        generator: draws one number for each entry; None is torch's global one.

    Source: Gupta, Agrawal, Gopalakrishnan and Narayanan 2015, arXiv 1502.02551, section 3.

    >>> draw = torch.Generator().manual_seed(0)
    >>> round(stochastic(torch.full((10000,), 0.25), draw).mean().item(), 1)
    0.2
    """
    below = numbers.floor()
    device = numbers.device if generator is None else generator.device
    chance = torch.rand(numbers.shape, generator=generator, dtype=numbers.dtype, device=device)
    return below + (chance.to(numbers.device) < numbers - below)


ROUNDINGS: dict[str, Rounding] = {f.__name__: f for f in (nearest, stochastic, floor)}
"""Roundings by name."""

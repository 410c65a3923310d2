"""The best matrices of a given rank, and which rank to take."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator

Pair = tuple[Tensor, Tensor]


def best_pair(matrix: Tensor, rank: int) -> Pair:
    """U sqrt(S) and sqrt(S) V^T of the truncated SVD: the nearest product of this rank.

    Shapes: (m, n) to (m, rank) and (rank, n).

    Source: Eckart and Young 1936, Psychometrika 1(3): |A - A_k|_F^2 is the sum of the squares of
    the singular values that are left out.

    >>> left, right = best_pair(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    >>> left @ right
    tensor([[3., 0.],
            [0., 0.]])
    """
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return _halves(u[:, :rank], s[:rank], v[:rank])


def sketched_pair(
    matrix: Tensor, rank: int, *, oversampling: int = 10, iterations: int = 2, seed: int = 0
) -> Pair:
    """As `best_pair`, nearly, from products with a few random vectors.

    Q = orth((A A^T)^iterations A Omega), then the SVD of Q^T A.

    Source: Halko, Martinsson and Tropp 2011, SIAM Review 53(2), algorithms 4.4 and 5.1; torch's
    `svd_lowrank` does the same, but takes its random vectors from the global generator.
    """
    width = min(rank + oversampling, *matrix.shape)
    drawn = torch.randn(matrix.shape[1], width, generator=generator(seed, "sketch"))
    basis = torch.linalg.qr(matrix @ drawn.to(matrix)).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return _halves((basis @ u)[:, :rank], s[:rank], v[:rank])


def _halves(u: Tensor, s: Tensor, v: Tensor) -> Pair:
    root = s.sqrt()
    return u * root, root[:, None] * v


def energy_rank(singular: Tensor, energy: float) -> int:
    """The least rank whose squared singular values are this share of all, at least 1.

    >>> energy_rank(torch.tensor([2.0, 1.0, 1.0]), 0.8)
    2
    """
    squares = singular.double().square()
    total = float(squares.sum())
    if total == 0:
        return 1
    reached = squares.cumsum(0) >= energy * total * (1 - 1e-12)
    return int(reached.float().argmax()) + 1 if bool(reached.any()) else len(singular)


def estimated_rank(matrix: Tensor) -> int:
    """The rank of a matrix that is low rank plus Gaussian noise, by variational Bayes; at least 1.

    Each singular value is kept that lies above a threshold, which follows from the noise's variance
    sigma^2; that is found by minimising the free energy.

    Args:
        matrix: (m, n).

    Source: Nakajima, Sugiyama, Babacan and Tomioka 2013, JMLR 14, Global analytic solution of
    fully-observed variational Bayesian matrix factorization, theorem 2 and corollary 2; as used by
    Kim et al. 2016, arXiv 1511.06530.

    >>> noise = torch.randn(60, 80, generator=torch.Generator().manual_seed(0))
    >>> planted = 3 * torch.ones(60, 80)
    >>> estimated_rank(planted + noise), estimated_rank(noise)
    (1, 1)
    """
    short, long = sorted(matrix.shape)
    singular = torch.linalg.svdvals(matrix.double())
    squares = singular.square()
    alpha = short / long
    tau = 2.5129 * math.sqrt(alpha)
    bound = (1 + tau) * (1 + alpha / tau)  # x above it is signal, x = s^2 / (long * sigma^2)
    total = float(squares.sum())
    if total == 0 or short == 1:
        return 1
    most = min(math.ceil(short / (1 + alpha)) - 1, short - 1)
    upper = total / (short * long)
    lower = max(
        float(squares[most]) / (long * bound) if most < short else 0.0,
        float(squares[most:].mean()) / long if most < short else 0.0,
        upper * 1e-12,
    )

    def free_energy(variance: float) -> float:
        x = squares / (long * variance)
        above = x > bound
        signal, rest = x[above], x[~above].clamp(min=1e-300)
        part = (signal - (1 + alpha)) ** 2 - 4 * alpha
        t = 0.5 * (signal - (1 + alpha) + part.clamp(min=0).sqrt())
        return float(
            (rest - rest.log()).sum()
            + (signal - t).sum()
            + ((t + 1) / signal).log().sum()
            + alpha * (t / alpha + 1).log().sum()
        )

    variance = _least(free_energy, lower, max(upper, lower))
    return max(1, int((squares > long * variance * bound).sum()))


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of a positive number is least: the best of a grid of logarithms, refined."""
    ends = math.log(low), math.log(high)
    steps: list[float] = torch.linspace(*ends, 64, dtype=torch.float64).exp().tolist()
    for _ in range(3):
        values = [function(step) for step in steps]
        at = values.index(min(values))
        left, right = steps[max(at - 1, 0)], steps[min(at + 1, len(steps) - 1)]
        steps = torch.linspace(left, right, 33, dtype=torch.float64).tolist()
    values = [function(step) for step in steps]
    return steps[values.index(min(values))]


def check_rank(rank: int, most: int, what: str = "rank") -> int:
    """The rank, or ConfigError if it is not 1 to `most`."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ConfigError(f"{what}: {rank!r}; expected a whole number from 1 to {most}")
    return rank

"""How the loss bends in one weight, whose other weights stay: eigenvalues and traces.

Of a Hessian only its products with vectors are needed. What is pruned does not move, so it has no
part in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from tersor.core.derivatives import Loss, mean_hessian_product
from tersor.core.errors import ConfigError
from tersor.core.seeding import generator
from tersor.core.weights import Weight

Batches = Sequence[tuple[Tensor, Tensor]]
"""Inputs and targets on the model's device."""

MOST_SHARES = 10


def top_eigenvalue(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
) -> float:
    """The eigenvalue of a symmetric matrix that is largest in size, by power iteration.

    v <- A v / |A v|;  the value is v^T A v.

    Args:
        product: v to A v.
        start: any tensor that `product` takes; not zero.
        steps: at most so many products.
        tolerance: stop when A v is this close to value * v, as a share of |value|.

    >>> matrix = torch.diag(torch.tensor([1.0, -3.0, 2.0]))
    >>> round(top_eigenvalue(lambda v: matrix @ v, torch.ones(3)), 3)
    -3.0
    """
    vector, value = start / start.norm(), 0.0
    for _ in range(steps):
        image = product(vector)
        value = float((vector * image).sum())
        size = image.norm()
        if float((image - value * vector).norm()) <= tolerance * abs(value):
            break
        if float(size) == 0:
            break
        vector = image / size
    return value


def weight_eigenvalue(
    model: nn.Module,
    weight: Weight,
    kept: Tensor,
    batches: Batches,
    loss: Loss,
    *,
    seed: int = 0,
    steps: int = 100,
    tolerance: float = 1e-3,
) -> float:
    """The eigenvalue that is largest in size of the mean loss's Hessian in one weight's entries.

    Source: Dong et al. 2019, HAWQ, arXiv 1905.03696, section 3.2.
    """
    inside = kept.to(weight.parameter)

    def product(vector: Tensor) -> Tensor:
        [found] = mean_hessian_product(model, [weight], batches, loss, [vector])
        return found * inside

    draw = generator(seed, "eigenvalue", weight.name)
    start = torch.randn(weight.shape, generator=draw).to(weight.parameter) * inside
    return top_eigenvalue(product, start, steps=steps, tolerance=tolerance)


def mean_curvatures(
    model: nn.Module,
    weights: Sequence[Weight],
    kept: Sequence[Tensor],
    batches: Batches,
    loss: Loss,
    *,
    seed: int = 0,
    probes: int = 32,
) -> list[float]:
    """The mean of the Hessian's diagonal over each weight's kept entries: its trace / entries.

    Hutchinson's estimate, mean of v^T H v over random v of +1 and -1; all weights have their part
    in one v, as what crosses from one to another has the mean zero.

    Source: Dong et al. 2020, HAWQ-V2, arXiv 1911.03852, section 3; Hutchinson 1990.
    """
    sums = [0.0] * len(weights)
    for probe in range(probes):
        signs = [
            _signs(weight, seed, probe) * inside.to(weight.parameter)
            for weight, inside in zip(weights, kept, strict=True)
        ]
        products = mean_hessian_product(model, weights, batches, loss, signs)
        for index, (sign, product) in enumerate(zip(signs, products, strict=True)):
            sums[index] += float((sign * product).sum(dtype=torch.float64))
    counts = [max(int(inside.sum()), 1) for inside in kept]
    return [total / probes / count for total, count in zip(sums, counts, strict=True)]


def shares_of(batches: Batches) -> list[Batches]:
    """The batches in at most ten shares, as even as can be, each of neighbours.

    Raises:
        ConfigError: there are fewer than two batches.

    >>> [len(share) for share in shares_of([(torch.ones(1), torch.ones(1))] * 25)]
    [2, 3, 2, 3, 2, 3, 2, 3, 2, 3]
    """
    if len(batches) < 2:
        raise ConfigError(
            f"data: {len(batches)} batch; expected two or more, as the eigenvalues of several "
            "shares of the data are compared"
        )
    count = min(MOST_SHARES, len(batches))
    ends = [len(batches) * k // count for k in range(count + 1)]
    return [batches[a:b] for a, b in itertools.pairwise(ends)]


def spread_of(values: Iterable[float]) -> float:
    """|mean| + standard deviation of the eigenvalues of several shares of the data.

    Source: Shen et al. 2020, Q-BERT, arXiv 1909.05840, eq. 2.

    >>> spread_of([-1.0, -3.0])
    3.0
    """
    found = torch.tensor(list(values), dtype=torch.float64)
    return float(found.mean().abs() + found.std(correction=0))


def _signs(weight: Weight, seed: int, probe: int) -> Tensor:
    draw = generator(seed, "trace", weight.name, probe)
    return (2 * torch.randint(2, weight.shape, generator=draw) - 1).to(weight.parameter)

"""Second derivatives: the Hessian of the mean loss, times a vector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tersor.core.weights import Weight
from tersor.prune.scoring import ScoringData, differentiable


def mean_product(
    model: nn.Module,
    weights: list[Weight],
    data: ScoringData,
    vectors: Sequence[Tensor],
    criterion: str,
) -> list[Tensor]:
    """H v, H the Hessian of the mean loss over all samples of all batches; one tensor per weight.

    Raises:
        ConfigError: there is no data.
    """
    parameters = [weight.parameter for weight in weights]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    samples = 0
    with twice_differentiable(model, weights):
        for inputs, targets in data.each(model, criterion):
            samples += len(inputs)
            found = hessian_product(data.loss(model(inputs), targets), parameters, vectors)
            for total, part in zip(sums, found, strict=True):
                total.add_(part, alpha=len(inputs))
    return [total.div_(samples) for total in sums]


def hessian_product(
    loss: Tensor, parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """The Hessian of a scalar in these parameters, times a vector given as one tensor of each.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_product((x[0] * x[1]).square(), [x], [torch.tensor([1.0, 0.0])])
    [tensor([8., 8.])]
    """
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    along = torch.stack([(s * v).sum() for s, v in zip(slopes, vectors, strict=True)]).sum()
    if not along.requires_grad:  # the scalar is linear in all of them
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(along, parameters, materialize_grads=True))


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, weights: Iterable[Weight]) -> Iterator[None]:
    """As `differentiable`, with attention as plain matrix products: fused, it has no second one."""
    with differentiable(model, weights), sdpa_kernel(SDPBackend.MATH):
        yield

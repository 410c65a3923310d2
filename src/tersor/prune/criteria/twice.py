"""Second derivatives: the Hessian of the mean loss, times a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tersor.core.derivatives import hessian_product, twice_differentiable
from tersor.core.weights import Weight
from tersor.prune.scoring import ScoringData


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

"""What comes into a layer, over all the batches that a criterion is given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersor.core.derivatives import differentiable
from tersor.core.layer_inputs import watching_inputs
from tersor.core.weights import Weight
from tersor.prune.scoring import ScoringData


def watch_inputs(
    model: nn.Module,
    weights: list[Weight],
    data: ScoringData,
    criterion: str,
    take: Callable[[Weight, Tensor], None],
) -> dict[str, str]:
    """Run all batches and give the input rows of each layer to `take`; why some have none.

    The rows are those of `core.layer_inputs.watching_inputs`.

    Raises:
        ConfigError: there is no data.
    """
    with (
        differentiable(model),
        torch.no_grad(),
        watching_inputs(model, weights, take) as refused,
    ):
        for inputs, _ in data.each(model, criterion):
            model(inputs)
    return refused

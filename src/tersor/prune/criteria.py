"""How much each weight matters: a criterion gives scores, higher = keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tersor.core.weights import prunable

Scores = dict[str, Tensor]
"""Qualified weight name to a float tensor of the weight's shape."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs and targets, for criteria that look at data."""

Criterion = Callable[[nn.Module, Batches | None], Scores]


@torch.no_grad()
def magnitude(model: nn.Module, data: Batches | None = None) -> Scores:
    """The absolute value |w|; data is not looked at.

    Source: Han, Pool, Tran and Dally 2015, arXiv 1506.02626, section 3.1.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.5, -2.0, 0.0]]))
    >>> magnitude(model)["weight"].tolist()
    [[0.5, 2.0, 0.0]]
    """
    return {weight.name: weight.parameter.abs() for weight in prunable(model)}


CRITERIA: dict[str, Criterion] = {f.__name__: f for f in (magnitude,)}

"""Criteria that look at the weights alone, and the control that looks at nothing."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tersor.core.weights import Weight, prunable
from tersor.prune.scoring import Lazily, Scores, ScoringData


def random(model: nn.Module, data: ScoringData) -> Scores:
    """Uniform numbers in [0, 1): the control that every other criterion has to beat.

    `data.seed` and a weight's name decide its scores, whatever else the model has.

    Source: Yu et al. 2018, arXiv 1711.05908, section 4 (the baseline "random").

    >>> model = nn.Linear(3, 1)
    >>> torch.equal(*(random(model, ScoringData(seed=s))["weight"] for s in (7, 7)))
    True
    """

    def draw(weight: Weight) -> Tensor:
        numbers = torch.rand(weight.shape, generator=data.generator("random", weight.name))
        return numbers.to(weight.parameter.device)

    return Lazily({w.name: partial(draw, w) for w in prunable(model)})


def magnitude(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """The absolute value |w|; data is not looked at.

    Source: Han, Pool, Tran and Dally 2015, arXiv 1506.02626, section 3.1.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.5, -2.0, 0.0]]))
    >>> magnitude(model)["weight"].tolist()
    [[0.5, 2.0, 0.0]]
    """
    return Lazily({w.name: partial(torch.abs, w.parameter.detach()) for w in prunable(model)})

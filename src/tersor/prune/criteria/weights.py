"""Criteria that look at the weights alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tersor.core.weights import prunable
from tersor.prune.scoring import Lazily, Scores, ScoringData


def magnitude(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """The absolute value |w|; data is not looked at.

    Source: Han, Pool, Tran and Dally 2015, arXiv 1506.02626, section 3.1.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.5, -2.0, 0.0]]))
    >>> magnitude(model)["weight"].tolist()
    [[0.5, 2.0, 0.0]]
    """
    return Lazily({w.name: partial(torch.abs, w.parameter.detach()) for w in prunable(model)})

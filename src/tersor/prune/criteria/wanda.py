"""Wanda: a weight matters as much as the product that it makes."""

from __future__ import annotations

from torch import Tensor, nn

from tersor.core.units import as_units, from_units
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise, refusing
from tersor.prune.criteria.inputs import watch_inputs
from tersor.prune.scoring import Scores, ScoringData


def wanda(model: nn.Module, data: ScoringData) -> Scores:
    """|w_ij| * ||x_j||_2, x_j the j-th input of the layer over all places where it is used.

    Targets and the loss are not looked at. Linear and convolutional layers (by `unfold`) have
    scores. The paper compares within each output row; here the pattern and the allocation say
    what is compared, "2:4" within four neighbours of a row, "global" all with all.

    Raises:
        ConfigError: there is no data; or, when it is asked for, a weight has no such inputs.

    Source: Sun, Liu, Bair and Kolter 2024, arXiv 2306.11695, eq. 1; convolutions are ours.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 2.0]]))
    >>> inputs = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    >>> wanda(model, ScoringData([(inputs, inputs)]))["weight"].tolist()
    [[10.0, 2.0]]
    """
    weights = prunable(model)
    squares: dict[str, Tensor] = {}  # (groups, inputs of a unit)

    def take(weight: Weight, rows: Tensor) -> None:
        total = precise(rows).square().sum(1)
        squares[weight.name] = squares[weight.name] + total if weight.name in squares else total

    refused = watch_inputs(model, weights, data, "wanda", take)

    def score(weight: Weight) -> Tensor:
        units = as_units(weight, precise(weight.parameter.detach()).abs())
        norms = squares[weight.name].sqrt()  # a unit's inputs are those of its group
        norms = norms.repeat_interleave(len(units) // len(norms), 0)
        return from_units(weight, units * norms)

    return refusing("wanda", {w.name: score(w) for w in weights if w.name not in refused}, refused)

"""Layer-wise optimal brain surgeon: what a layer's output loses, from what comes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.units import as_units, from_units
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise, refusing
from tersor.prune.criteria.inputs import watch_inputs
from tersor.prune.criteria.surgeon import factor, losses
from tersor.prune.scoring import Scores, ScoringData

INPUT_LIMIT = 8192
"""Inputs of a unit: the moments of a layer have as many rows and columns, 512 MiB."""


def layerwise_obs(model: nn.Module, data: ScoringData, *, damping: float = 0.01) -> Scores:
    """L_q = w_q**2 / (2 [H^-1]_qq), H = mean of x x^T over the inputs x of the layer, damped.

    It is half of what a layer's mean squared output error rises by if w_q goes and the rest of its
    row makes up for it, which the repair `layerwise_obs` does. All rows of a layer share one H.
    Targets and the loss are not looked at. Linear and convolutional layers have scores.

    Args:
        damping: what is added to H's diagonal, as a share of its mean.

    Raises:
        ConfigError: there is no data, the damping is below 0; or, when it is asked for, a weight
            has no such inputs or more than 8,192.

    Source: Dong, Chen and Pan 2017, arXiv 1705.07565, eq. 5 and 6; damping as in Frantar and
    Alistarh 2023, arXiv 2301.00774.
    """
    weights = prunable(model)
    moments, refused = input_moments(model, weights, data, damping, "layerwise_obs")

    def score(weight: Weight) -> Tensor:
        units = as_units(weight, precise(weight.parameter.detach()))
        inverse = torch.cholesky_inverse(factor(moments[weight.name]))
        diagonal = inverse.diagonal(dim1=1, dim2=2)  # (groups, inputs of a unit)
        diagonal = diagonal.repeat_interleave(len(units) // len(diagonal), 0)
        return from_units(weight, losses(units, diagonal)).to(units.dtype)

    return refusing(
        "layerwise_obs", {w.name: score(w) for w in weights if w.name in moments}, refused
    )


def input_moments(
    model: nn.Module, weights: list[Weight], data: ScoringData, damping: float, criterion: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The damped second moments of each layer's inputs, and why some layers have none.

    Shape: (groups, inputs of a unit, inputs of a unit), float64. Where all inputs are 0, so that
    no weight matters, it is the smallest positive multiple of the identity that has an inverse.
    """
    if damping < 0:
        raise ConfigError(f"{criterion}: damping {damping}; expected a number of 0 or more")
    sums: dict[str, Tensor] = {}
    rows_seen: dict[str, int] = {}
    large = {
        w.name: f"a unit has {size:,} inputs, at most {INPUT_LIMIT:,} can be inverted"
        for w in weights
        if (size := as_units(w, w.parameter.detach()).shape[1]) > INPUT_LIMIT
    }

    def take(weight: Weight, rows: Tensor) -> None:
        rows = rows.double()
        total = rows.mT @ rows
        sums[weight.name] = sums[weight.name] + total if weight.name in sums else total
        rows_seen[weight.name] = rows_seen.get(weight.name, 0) + rows.shape[1]

    small = [w for w in weights if w.name not in large]
    refused = {**large, **watch_inputs(model, small, data, criterion, take)}
    for name, total in sums.items():
        total /= max(rows_seen[name], 1)
        diagonal = total.diagonal(dim1=1, dim2=2)
        diagonal += (damping * diagonal.mean(1, keepdim=True)).clamp(min=_TINY)
    return sums, refused


_TINY = 1e-150  # its inverse, and the squares of that, are finite

"""Criteria for whole units (filters, rows) that look at the weights alone.

Each entry of a unit has the unit's score, see `entries`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tersor.core.units import as_units, from_units
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Lazily, Scores, ScoringData

_ROWS = 256  # of a distance matrix that stand in memory together


def filter_l1(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """The sum of |w| over all weights into a unit.

    Source: Li, Kadav, Durdanovic, Samet and Graf 2017, arXiv 1608.08710, section 3.1; for rows of
    a Linear, Hagiwara 1993.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    >>> filter_l1(model)["weight"].tolist()
    [[7.0, 7.0], [1.0, 1.0]]
    """
    return _norms(model, 1)


def filter_l2(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """The Euclidean norm of all weights into a unit.

    Source: He, Kang, Dong, Fu and Yang 2018, arXiv 1808.06866, eq. 2 with p = 2.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    >>> filter_l2(model)["weight"].tolist()
    [[5.0, 5.0], [1.0, 1.0]]
    """
    return _norms(model, 2)


def geometric_median(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """How far a unit is from the others of its layer: the sum of the Euclidean distances to them.

    The unit with the least sum is the one that the others can replace, be it large or small.

    Source: He, Liu, Wang, Hu and Yang 2019 (FPGM), arXiv 1811.00250, eq. 7 (their g').

    >>> model = nn.Linear(1, 3)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.0], [10.0], [11.0]]))
    >>> geometric_median(model)["weight"].flatten().tolist()
    [21.0, 11.0, 12.0]
    """

    def distances(weight: Weight) -> Tensor:
        units = as_units(weight, precise(weight.parameter.detach()))
        mode = "donot_use_mm_for_euclid_dist"  # exact: twins are at 0, not at rounding errors
        sums = [torch.cdist(part, units, compute_mode=mode).sum(1) for part in units.split(_ROWS)]
        return from_units(weight, torch.cat(sums)[:, None])

    return {w.name: distances(w) for w in prunable(model)}


def _norms(model: nn.Module, order: int) -> Scores:
    def norms(weight: Weight) -> Tensor:
        units = as_units(weight, precise(weight.parameter.detach()))
        return from_units(weight, torch.linalg.vector_norm(units, order, dim=1, keepdim=True))

    return Lazily({w.name: partial(norms, w) for w in prunable(model)})

"""Criteria that look at the weights alone, and the control that looks at nothing."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise
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


def magnitude_over_norm(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """Normalised by layer: |w| / ||W||_2, W the whole tensor; the squares of each sum to 1.

    Source: the normalisation of Molchanov, Tyree, Karras, Aila and Kautz 2017, arXiv 1611.06440,
    eq. 8, of magnitudes.

    >>> model = nn.Linear(2, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    >>> magnitude_over_norm(model)["weight"].tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return Lazily({w.name: partial(_shares, w, 2) for w in prunable(model)})


def magnitude_over_deviation(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """Normalised by layer: |w| / the standard deviation of the tensor's entries (divisor n).

    With one threshold for all tensors this is the rule "quality parameter times the standard
    deviation of the layer's weights". A tensor without spread is divided by the root of its mean
    square instead, 0 staying 0.

    Source: Han, Pool, Tran and Dally 2015, arXiv 1506.02626, section 4.
    """
    return Lazily({w.name: partial(_deviations, w) for w in prunable(model)})


def magnitude_share(model: nn.Module, data: ScoringData | None = None) -> Scores:
    """Normalised globally: |w| / the sum of |w| over all weights; they sum to 1.

    The order is that of `magnitude`, whatever is normalised by one number: it serves to compare
    networks, and as a weight among other shares.

    Source: the normalisation of Lee, Ajanthan and Torr 2019, arXiv 1810.02340, eq. 6, of
    magnitudes.
    """
    weights = prunable(model)
    total = torch.stack([_modulus(w).sum(dtype=torch.double) for w in weights]).sum().item()
    return Lazily({w.name: partial(_divided, w, total) for w in weights})


def _modulus(weight: Weight) -> Tensor:
    return precise(weight.parameter.detach()).abs()


def _divided(weight: Weight, by: float) -> Tensor:
    return _modulus(weight) / (by or 1.0)


def _shares(weight: Weight, order: int) -> Tensor:
    return _divided(weight, float(torch.linalg.vector_norm(_modulus(weight).double(), order)))


def _deviations(weight: Weight) -> Tensor:
    values = precise(weight.parameter.detach()).double()
    spread = values.std(correction=0).item() if values.numel() else 0.0
    return _divided(weight, spread or values.square().mean().sqrt().item())

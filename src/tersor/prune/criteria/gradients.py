"""Criteria of first order: what the loss does when a weight is scaled, from its gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersor.core.derivatives import differentiable
from tersor.core.weights import prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Scores, ScoringData, mean_gradients


def gradient_magnitude(model: nn.Module, data: ScoringData) -> Scores:
    """The modulus of the gradient |dL/dw|, L the mean loss over all samples.

    Source: Blalock et al. 2020, arXiv 2003.03033, section 2.3, "gradient based", without the
    weight; `snip` is the one with it.
    """
    weights = prunable(model)
    gradients = mean_gradients(model, weights, data, "gradient_magnitude")
    return {w.name: precise(gradients.pop(0)).abs() for w in weights}


def snip(model: nn.Module, data: ScoringData) -> Scores:
    """Connection sensitivity |w * dL/dw|: how fast the loss changes as a weight is scaled away.

    L is the mean loss over all samples of all batches; the modulus is taken after the mean.
    One forward and one backward pass over the data.

    Source: Lee, Ajanthan and Torr 2019, arXiv 1810.02340, eq. 5 and 6: their s_j, not divided by
    the sum of all of them, which leaves the order as it is; one mini-batch there, so give
    `data=[batch]`. Of all the training data it is Lee, Ajanthan, Gould and Torr 2020, arXiv
    1906.06307. Biases are not scored (their code does, and prunes each of them, being 0).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> batch = torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0]])
    >>> data = ScoringData([batch], loss=lambda outputs, targets: (outputs - targets).mean())
    >>> snip(model, data)["weight"].tolist()
    [[3.0, 5.0]]
    """
    weights = prunable(model)
    gradients = mean_gradients(model, weights, data, "snip")
    # Each gradient is let go as its score is made, so both never stand there for all weights.
    return {w.name: (precise(w.parameter.detach()) * gradients.pop(0)).abs_() for w in weights}


def taylor(model: nn.Module, data: ScoringData) -> Scores:
    """The squared first-order change of the loss (w * dL/dw)**2, the mean over the batches.

    A batch's gradient is squared before the mean, so that a weight which matters in opposite ways
    to two batches matters. With one batch the order is that of `snip`.

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz 2019, arXiv 1906.10771, eq. 7, for single
    weights; averaged over mini-batches as in their section 3.3. Of a group, the mean score
    is their sum of individual importances divided by its size. `taylor_gate` is that of 2017.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> batches = [(torch.tensor([[s, 1.0]]), torch.tensor([[0.0]])) for s in (2.0, -2.0)]
    >>> data = ScoringData(batches, loss=lambda outputs, targets: (outputs - targets).mean())
    >>> taylor(model, data)["weight"].tolist(), snip(model, data)["weight"].tolist()
    ([[36.0, 1.0]], [[0.0, 1.0]])
    """
    weights = prunable(model)
    parameters = [weight.parameter for weight in weights]
    sums: list[Tensor] = []
    batches = 0
    with differentiable(model, weights):
        for inputs, targets in data.each(model, "taylor"):
            loss = data.loss(model(inputs), targets)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            batches += 1
            squares = [
                (precise(p.detach()) * g).square() for p, g in zip(parameters, found, strict=True)
            ]
            sums = [s.add_(q) for s, q in zip(sums, squares, strict=True)] if sums else squares
    return {w.name: total.div_(batches) for w, total in zip(weights, sums, strict=True)}

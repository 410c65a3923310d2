"""GraSP: which weights carry the flow of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.criteria.twice import twice_differentiable
from tersor.prune.scoring import Scores, ScoringData


def grasp(model: nn.Module, data: ScoringData, *, temperature: float = 200.0) -> Scores:
    """How much gradient flow is lost without a weight: w * (H g), signed, before training.

    g = dL/dw and H its Hessian, over all scored weights together, L the mean loss of
    outputs / temperature. To first order |g|**2 falls by 2 w_j (H g)_j when w_j goes.
    Two forward and two backward passes over the data (the second one twice differentiated).

    Args:
        temperature: the outputs, logits, are divided by it; above 0.

    Raises:
        ConfigError: there is no data, or the temperature is not above 0.

    Source: Wang, Zhang and Grosse 2020, arXiv 2002.07376, eq. 8 and algorithm 1: their
    S = -w * (H g), whose largest go; ours is -S, higher = keep. Their code goes through the data
    in two halves to save memory and adds both up, as is done here with however many batches; it
    divides by |sum S|, which leaves the order as it is.
    """
    if not temperature > 0:
        raise ConfigError(f"grasp: temperature {temperature}; expected a number above 0")
    weights = prunable(model)
    with twice_differentiable(model, weights):
        gradients = _mean(model, weights, data, temperature, None)
        products = _mean(model, weights, data, temperature, gradients)
    return {
        w.name: precise(w.parameter.detach()) * h for w, h in zip(weights, products, strict=True)
    }


def _mean(
    model: nn.Module,
    weights: list[Weight],
    data: ScoringData,
    temperature: float,
    vector: list[Tensor] | None,
) -> list[Tensor]:
    """The gradient of the mean loss, or its Hessian times a vector, over all samples."""
    parameters = [weight.parameter for weight in weights]
    sums: list[Tensor] = []
    samples = 0
    for inputs, targets in data.each(model, "grasp"):
        loss = data.loss(model(inputs) / temperature, targets)
        found = torch.autograd.grad(
            loss, parameters, create_graph=vector is not None, materialize_grads=True
        )
        if vector is not None:
            flow = torch.stack([(g * v).sum() for g, v in zip(found, vector, strict=True)]).sum()
            found = torch.autograd.grad(flow, parameters, materialize_grads=True)
        samples += len(inputs)
        scaled = [g.detach() * len(inputs) for g in found]
        sums = [s.add_(g) for s, g in zip(sums, scaled, strict=True)] if sums else scaled
    return [total.div_(samples) for total in sums]

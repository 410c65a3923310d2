"""GraSP: which weights carry the flow of the gradient."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from tersor.core.derivatives import mean_hessian_product
from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Scores, ScoringData, mean_gradients


def grasp(model: nn.Module, data: ScoringData, *, temperature: float = 200.0) -> Scores:
    """How much gradient flow is lost without a weight: w * (H g), signed, before training.

    g = dL/dw and H its Hessian, over all scored weights together, L the mean loss of
    outputs / temperature. To first order |g|**2 falls by 2 w_j (H g)_j when w_j goes.
    Two passes over the data, the second with two backward passes.

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

    def cooled(outputs: Tensor, targets: Tensor) -> Tensor:
        return data.loss(outputs / temperature, targets)

    weights = prunable(model)
    cool = dataclasses.replace(data, loss=cooled)
    gradients = mean_gradients(model, weights, cool, "grasp")
    batches = data.each(model, "grasp")
    products = mean_hessian_product(model, weights, batches, cooled, gradients)
    return {
        w.name: precise(w.parameter.detach()) * p for w, p in zip(weights, products, strict=True)
    }

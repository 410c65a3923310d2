"""SynFlow: the share of each weight in what flows through the network, without data."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tersor.core.derivatives import differentiable
from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.scoring import Scores, ScoringData


def synflow(model: nn.Module, data: ScoringData) -> Scores:
    """Synaptic flow dR/d|w| * |w|, R the sum of the outputs for an input of ones.

    R is taken of a copy in float64 and eval mode whose parameters and buffers are replaced by
    their absolute values. In a net without biases the scores of each layer sum to R. Of `data`
    the shape of the first batch is used, no value. Score and prune in many rounds, as one round
    empties layers: `prune_(model, density, criterion="synflow", rounds=100)`.

    Raises:
        ConfigError: there is no batch to take the shape from, the inputs are indices, or R is
            beyond float64.

    Source: Tanaka, Kunin, Yamins and Ganguli 2020, arXiv 2006.05467, eq. 3 and algorithm 1.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> scores = synflow(model, ScoringData([(torch.zeros(1, 2), None)]))
    >>> torch.allclose(scores["0.weight"].sum(), scores["1.weight"].sum())
    True
    """
    ones = ones_input(model, data, "synflow")
    positive = copy.deepcopy(model).double()
    with torch.no_grad():
        for tensor in (*positive.parameters(), *positive.buffers()):
            tensor.abs_()
    weights = prunable(positive)
    with differentiable(positive, weights):
        flow = positive(ones).sum()
        if not torch.isfinite(flow):
            raise ConfigError(
                f"criterion 'synflow': the outputs of {type(model).__name__} for an input of ones "
                f"sum to {flow.item()} in float64; scale its weights down, layer by layer, which "
                "leaves the order of the scores as it is"
            )
        gradients = torch.autograd.grad(
            flow, [w.parameter for w in weights], materialize_grads=True
        )
    return {w.name: g * w.parameter.detach() for w, g in zip(weights, gradients, strict=True)}


def ones_input(model: nn.Module, data: ScoringData, criterion: str) -> Tensor:
    """One sample of ones, in float64, of the shape that the first batch has.

    Raises:
        ConfigError: there is no batch, or its inputs are indices.
    """
    inputs, _ = next(iter(data.batches or ()), (None, None))
    if inputs is None:
        raise ConfigError(
            f"criterion {criterion!r} takes the shape of an input from the first batch, no value "
            "of it, and there is none; expected data=[(inputs, targets)], zeros will do"
        )
    if not inputs.is_floating_point():
        raise ConfigError(
            f"criterion {criterion!r} feeds ones, but the inputs are of {inputs.dtype}: indices, "
            "of which 1 is one like any other. Score the part of the model above its embedding"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.ones(1, *inputs.shape[1:], dtype=torch.double, device=device)

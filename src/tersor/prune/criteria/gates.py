"""Criteria for units from gates on their outputs: what the loss does when an output is scaled.

A gate of 1 stands on each output of a layer, the bias included and before the activation function.
For ReLU and other functions with f(c x) = c f(x), c > 0, and for pooling, that is the same as
behind them. Its gradient is the sum over positions of h * dL/dh. Each entry of a unit has the
unit's score.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.derivatives import Loss, differentiable
from tersor.core.errors import ConfigError
from tersor.core.units import from_units, users
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise, refusing
from tersor.prune.scoring import Scores, ScoringData

GATED = {"linear", "conv", "conv_transposed"}


def taylor_gate(model: nn.Module, data: ScoringData) -> Scores:
    """The first-order change of the loss when a unit goes, by feature map, normalised by layer.

    theta = mean over samples of |(1 / M) sum over its M positions of h dL/dh|;
    score = theta / the Euclidean norm of theta over the layer

    Raises:
        ConfigError: there is no data, or axis 0 of a layer's output is not the sample.

    Source: Molchanov, Tyree, Karras, Aila and Kautz 2017, arXiv 1611.06440, eq. 7 and 8; L here
    is a sample's own loss, which the layer's norm divides out.
    """

    def finish(sums: Tensor, samples: int) -> Tensor:
        norm = torch.linalg.vector_norm(sums)
        return sums / torch.where(norm > 0, norm, 1.0)

    return _scored("taylor_gate", model, data, lambda g, positions: g.abs() / positions, finish)


def fisher_gate(model: nn.Module, data: ScoringData) -> Scores:
    """Half the mean square of the gate's gradient over samples: the loss that a unit's going costs.

    score = 1 / (2 N) sum over samples of (sum over positions of h dL_n/dh)**2

    Raises:
        ConfigError: as `taylor_gate`.

    Source: Theis, Korshunova, Tejani and Huszar 2018, arXiv 1801.05787, eq. 6 and 7, without the
    term of computing costs.
    """
    return _scored(
        "fisher_gate", model, data, lambda g, _: g.square(), lambda sums, n: sums / (2 * n)
    )


def skeletonization(model: nn.Module, data: ScoringData, *, decay: float = 0.8) -> Scores:
    """Relevance -dE/d(gate), signed: how much the error E rises, to first order, if a unit goes.

    E is the linear error, the sum over outputs of |target - output|, the mean over samples, as a
    squared error has no slope left where training ended; classes are compared as 0 and 1 with the
    softmax of the outputs. `data.loss` is not used. Over the batches, in their order, relevance r
    follows r <- decay * r + (1 - decay) * (that of the batch), from the first batch's value on.

    Args:
        decay: in [0, 1).

    Raises:
        ConfigError: decay is out of range; else as `taylor_gate`.

    Source: Mozer and Smolensky 1989, NIPS 1, eq. 5 to 7; decay 0.8 as there. They begin at 0.
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"skeletonization: decay {decay}; expected 0 <= decay < 1")
    name = "skeletonization"
    weights, refused = _gated(model)
    relevance: dict[str, Tensor] = {}
    for found in _gate_gradients(name, model, weights, refused, data, linear_error):
        for key, (gradients, _) in found.items():
            batch = -gradients.mean(0)
            relevance[key] = torch.lerp(batch, relevance.get(key, batch), decay)
    return _spread(name, weights, relevance, refused)


def linear_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum over outputs of |target - output|, the mean over samples; classes as 0 and 1.

    Shapes: (N, K) and (N,) for classes, whose logits the outputs are; else two equal shapes.
    """
    if not targets.is_floating_point():
        targets = F.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
        outputs = outputs.softmax(-1)
    return (targets - outputs).abs().sum() / len(outputs)


def _scored(
    name: str,
    model: nn.Module,
    data: ScoringData,
    each: Callable[[Tensor, int], Tensor],
    finish: Callable[[Tensor, int], Tensor],
) -> Scores:
    """Scores from the sum over samples of `each(gate gradients, positions of a unit)`."""
    weights, refused = _gated(model)
    sums: dict[str, Tensor] = {}
    samples = 0
    for found in _gate_gradients(name, model, weights, refused, data, data.loss):
        samples += next((len(g) for g, _ in found.values()), 0)
        for key, (gradients, positions) in found.items():
            total = each(gradients, positions).sum(0)
            sums[key] = sums[key] + total if key in sums else total
    return _spread(name, weights, {k: finish(s, samples) for k, s in sums.items()}, refused)


def _gated(model: nn.Module) -> tuple[list[Weight], dict[str, str]]:
    """The weights whose layers have outputs that gates fit, and why the others' have none."""
    weights = prunable(model)
    refused = {
        w.name: f"gates stand on the outputs of linear and convolutional layers, this is {w.kind}"
        for w in weights
        if w.kind not in GATED
    }
    return [w for w in weights if w.name not in refused], refused


def _spread(
    name: str, weights: list[Weight], units: dict[str, Tensor], refused: dict[str, str]
) -> Scores:
    unseen = {
        w.name: "its layer is not called as a module on this data, so its outputs are not seen"
        for w in weights
        if w.name not in units
    }
    scores = {w.name: from_units(w, units[w.name][:, None]) for w in weights if w.name in units}
    return refusing(name, scores, {**refused, **unseen})


def _gate_gradients(
    name: str,
    model: nn.Module,
    weights: list[Weight],
    refused: dict[str, str],
    data: ScoringData,
    loss: Loss,
) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """By batch and weight: each sample's gradient of its own loss, (N, units), and the positions.

    One pass over a batch gives all samples' gradients, as each of them has gates of its own.
    """
    with differentiable(model, weights):
        for inputs, targets in data.each(model, name):
            gates: dict[str, Tensor] = {}
            positions: dict[str, int] = {}
            with contextlib.ExitStack() as stack:
                for weight in weights:
                    hook = _gate(name, weight, len(inputs), gates, positions)
                    for module in users(model, weight):
                        stack.callback(module.register_forward_hook(hook).remove)
                value = loss(model(inputs), targets)
            if not gates:  # every weight is refused, which is said where its scores are asked for
                continue
            found = torch.autograd.grad(value, list(gates.values()), materialize_grads=True)
            yield {
                key: (precise(gradient) * len(inputs), positions[key])
                for key, gradient in zip(gates, found, strict=True)
            }


def _gate(
    name: str, weight: Weight, samples: int, gates: dict[str, Tensor], positions: dict[str, int]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that multiplies a layer's output by gates; a layer called twice has one."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if len(output) != samples:
            raise ConfigError(
                f"criterion {name!r}: axis 0 of the output of the layer of {weight.name!r} has "
                f"{len(output)} places for {samples} samples; expected the samples there"
            )
        axis = output.dim() - 1 if weight.kind == "linear" else 1
        units = output.shape[axis]
        if weight.name not in gates:
            gates[weight.name] = torch.ones(
                samples, units, dtype=output.dtype, device=output.device, requires_grad=True
            )
            positions[weight.name] = max(output.numel() // max(samples * units, 1), 1)
        view = [samples, *[1] * (output.dim() - 1)]
        view[axis] = units
        return output * gates[weight.name].view(view)

    return hook

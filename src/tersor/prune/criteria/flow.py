"""Criteria from a unit's neighbours, found by letting numbers flow through a copy of the network.

In the copy all is linear and nothing is below 0: activation functions and layer, group and instance
normalisations hand on what comes, batch normalisations scale only. So one pass over an input of
ones shows which layers lie next to each other and what reaches them, in any network, residual ones
too. Activation functions have to be modules, or the identity on positive numbers, as ReLU is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersor.core.derivatives import differentiable
from tersor.core.units import as_units, from_units, group_count, users
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import refusing
from tersor.prune.criteria.synflow import ones_input
from tersor.prune.scoring import Scores, ScoringData

Visit = Callable[[Weight, Tensor, Tensor], Tensor]
"""A weight of the copy, what comes into its layer, what comes out: what is to come out."""


def nisp(model: nn.Module, data: ScoringData) -> Scores:
    """Importance handed back from the outputs, for each unit: s(l) = |W(l + 1)|^T s(l + 1).

    The outputs have the importance 1. A filter's is the sum over its positions; average pooling
    shares it, a batch normalisation scales it by |gamma| / sigma. Each entry of a unit has the
    unit's score. Of `data` the shape of the first batch is used, no value.

    Raises:
        ConfigError: there is no batch to take the shape from, or the inputs are indices; or, when
            it is asked for, a weight is of another kind than linear and convolutional.

    Source: Yu et al. 2018, arXiv 1711.05908, eq. 9; there the importance of the last hidden layer
    comes from feature ranking (Inf-FS).

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = model[2].weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    >>> nisp(model, ScoringData([(torch.zeros(1, 1), None)]))["0.weight"].tolist()
    [[3.0], [4.0]]
    """
    gates: dict[str, Tensor] = {}

    def gate(weight: Weight, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs + _by_unit(weight, _gate(gates, weight, outputs), outputs)

    outputs, weights, refused = _let_flow(model, data, "nisp", 1, gate)
    found: Sequence[Tensor] = ()
    if gates:  # else every weight is refused, which is said where its scores are asked for
        found = torch.autograd.grad(outputs.sum(), list(gates.values()), materialize_grads=True)
    units = dict(zip(gates, found, strict=True))
    return refusing(
        "nisp", {w.name: from_units(w, units[w.name][:, None]) for w in weights}, refused
    )


def lookahead(model: nn.Module, data: ScoringData) -> Scores:
    """|w| times the norms of what it connects: the weights into its input and out of its output.

    score = |w| * ||weights into its input unit||_2 * ||weights that its output unit goes into||_2

    It is what the product of three layers, taken as linear, changes by when w goes. Where a layer
    has no neighbour on one side the factor is 1; several neighbours (residual nets) count
    together. A batch normalisation between two layers scales by |gamma| / sigma.
    Of `data` the shape of the first batch is used, no value.

    Raises:
        ConfigError: as `nisp`.

    Source: Park, Lee, Mo and Shin 2020, arXiv 2002.04809, eq. 4, all layers scored at once;
    batch normalisation as in their section 3.3.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[2.0], [-1.0]]))
    >>> _ = model[2].weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    >>> scores = lookahead(model, ScoringData([(torch.zeros(1, 1), None)]))
    >>> [[round(s, 6) for s in scores[n].flatten().tolist()] for n in ("0.weight", "2.weight")]
    [[6.0, 4.0], [6.0, 4.0]]
    """
    gates: dict[str, Tensor] = {}
    before: dict[str, Tensor] = {}
    reached: list[Tensor] = []

    def norms(weight: Weight, inputs: Tensor, outputs: Tensor) -> Tensor:
        # A layer gives the squared norm of the weights into each of its units, and a gate of 0
        # that only the layers next to it depend on.
        squares = as_units(weight, weight.parameter)
        incoming = _by_input(weight, inputs)
        reached.append((incoming * _out_of_inputs(weight, squares)).sum())
        known = before.get(weight.name, torch.zeros_like(incoming))
        before[weight.name] = known + incoming.detach()
        flowing = squares.sum(1) + _gate(gates, weight, outputs)
        return _by_unit(weight, flowing, outputs).expand_as(outputs)

    _, weights, refused = _let_flow(model, data, "lookahead", 2, norms)
    behind: dict[str, Tensor | None] = dict.fromkeys(gates)  # None: goes into no layer
    total = sum(reached, torch.zeros((), dtype=torch.double))
    if total.requires_grad:
        found = torch.autograd.grad(total, list(gates.values()), allow_unused=True)
        behind = dict(zip(gates, found, strict=True))

    def score(weight: Weight) -> Tensor:
        squares = as_units(weight, weight.parameter)
        incoming = before[weight.name].view(group_count(weight), -1)  # by the inputs of a group
        incoming = incoming.repeat_interleave(squares.shape[1] // incoming.shape[1], 1)
        incoming = incoming.repeat_interleave(len(squares) // len(incoming), 0)
        outgoing = behind[weight.name]
        product = squares * incoming
        return (product if outgoing is None else product * outgoing[:, None]).sqrt()

    return refusing("lookahead", {w.name: from_units(w, score(w)) for w in weights}, refused)


def _let_flow(
    model: nn.Module, data: ScoringData, criterion: str, power: int, visit: Visit
) -> tuple[Tensor, list[Weight], dict[str, str]]:
    """The outputs of the copy, whose numbers are |value|**power; its weights that were visited."""
    ones = ones_input(model, data, criterion)
    network = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in network.requires_grad_(False).parameters():
            parameter.abs_().pow_(power)
    weights = prunable(network)
    refused = {
        w.name: f"numbers flow through linear and convolutional layers, this is {w.kind}"
        for w in weights
        if w.kind not in ("linear", "conv", "conv_transposed") or isinstance(w.module, nn.Bilinear)
    }
    visited: set[str] = set()

    def entering(weight: Weight) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
            visited.add(weight.name)
            return visit(weight, args[0], outputs)

        return hook

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(_scaling(module, power))
        elif isinstance(module, _HANDED_ON):
            module.register_forward_hook(lambda module, args, outputs: args[0])
    for weight in weights:
        if weight.name not in refused:
            for module in users(network, weight):
                module.register_forward_hook(entering(weight))
    with differentiable(network):
        outputs = network(ones)
    for weight in weights:
        if weight.name not in visited:
            refused.setdefault(weight.name, "its layer is not called as a module")
    return outputs, [w for w in weights if w.name in visited], refused


def _scaling(
    norm: _BatchNorm, power: int
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        scale = torch.ones(norm.num_features, dtype=torch.double, device=outputs.device)
        if norm.weight is not None:
            scale = scale * norm.weight  # to this power already
        if norm.running_var is not None:
            scale = scale / (norm.running_var + norm.eps).pow(power / 2)
        return args[0] * scale.view(1, -1, *[1] * (outputs.dim() - 2))

    return hook


def _gate(gates: dict[str, Tensor], weight: Weight, outputs: Tensor) -> Tensor:
    """A zero for each unit of a layer, one tensor for all its calls."""
    if weight.name not in gates:
        units = outputs.shape[_axis(weight, outputs)]
        gates[weight.name] = outputs.new_zeros(units).requires_grad_(True)
    return gates[weight.name]


def _by_unit(weight: Weight, units: Tensor, outputs: Tensor) -> Tensor:
    """One number for each unit, to be broadcast over a layer's outputs."""
    view = [1] * outputs.dim()
    view[_axis(weight, outputs)] = len(units)
    return units.view(view)


def _by_input(weight: Weight, inputs: Tensor) -> Tensor:
    """The mean over samples and positions of each input of a layer."""
    axis = _axis(weight, inputs)
    return inputs.movedim(axis, -1).reshape(-1, inputs.shape[axis]).mean(0)


def _out_of_inputs(weight: Weight, units: Tensor) -> Tensor:
    """The sum over all weights that take each input of a layer."""
    if weight.kind == "linear":
        return units.sum(0)
    groups = group_count(weight)
    channels = weight.parameter.shape[0 if weight.kind == "conv_transposed" else 1]
    channels = channels // groups if weight.kind == "conv_transposed" else channels
    return units.view(groups, len(units) // groups, channels, -1).sum((1, 3)).flatten()


def _axis(weight: Weight, values: Tensor) -> int:
    return values.dim() - 1 if weight.kind == "linear" else 1


_HANDED_ON = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus),
    *(nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.Threshold),
    *(nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

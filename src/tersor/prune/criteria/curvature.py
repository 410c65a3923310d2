"""Criteria of second order with a diagonal curvature, and where curvature comes from.

Curvature as the mean over samples of v v^T, from vectors v: with the gradients of the samples'
losses it is the empirical Fisher matrix; with the outputs' gradients, scaled by the curvature of
the loss in the outputs, it is the Gauss-Newton matrix (with cross-entropy, the Fisher matrix of the
model). Neither has the network's own curvature, and both are never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor, nn

from tersor.core.derivatives import differentiable, mean_hessian_product
from tersor.core.errors import ConfigError
from tersor.core.tables import look_up
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Scores, ScoringData

Vectors = Generator[list[list[Tensor]]]
"""For each sample its vectors, each a tensor per weight."""


def fisher(model: nn.Module, data: ScoringData) -> Scores:
    """The loss that a weight's going costs by the empirical Fisher matrix: w**2 mean(g_n**2) / 2.

    g_n is the gradient of sample n's own loss, with the label of the data. One backward pass a
    sample.

    Raises:
        ConfigError: there is no data.

    Source: Theis, Korshunova, Tejani and Huszar 2018, arXiv 1801.05787, eq. 5, for single
    weights.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(3.0)
    >>> batch = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)
    >>> data = ScoringData([batch], loss=lambda outputs, targets: (outputs - targets).mean())
    >>> fisher(model, data)["weight"].item()  # the mean gradient is 0
    4.5
    """
    return _by_diagonal(model, "fisher", lambda m, w: diagonal(m, w, data, "fisher"))


def obd(
    model: nn.Module, data: ScoringData, *, curvature: str = "hutchinson", probes: int = 32
) -> Scores:
    """Optimal brain damage: h w**2 / 2, h the diagonal of the Hessian of the mean loss.

    | `curvature` | h | cost over all data |
    | --- | --- | --- |
    | `hutchinson` | mean of v * (H v) over random v of +1 and -1 | `probes` Hessian products |
    | `exact` | each second derivative | a Hessian product for each weight: tiny nets |
    | `gauss_newton` | diagonal of the Gauss-Newton matrix | a pass for each sample and output |
    | `fisher` | diagonal of the empirical Fisher matrix | a pass for each sample |

    The first two can be below 0, where the loss bends down; such weights go first.

    Args:
        curvature: one of the four.
        probes: of Hutchinson's estimate, whose error falls with their root.

    Raises:
        ConfigError: the curvature is unknown, there are no probes or no data.

    Source: LeCun, Denker and Solla 1990, NIPS 2, eq. 2 to 4; they compute the diagonal by a
    layered recursion that neglects what is off the diagonal in each layer. Hutchinson 1990 for
    the estimate.
    """
    if probes < 1:
        raise ConfigError(f"obd: probes {probes}; expected at least 1")
    sources: dict[str, Callable[[nn.Module, list[Weight]], list[Tensor]]] = {
        "hutchinson": lambda m, w: _hutchinson(m, w, data, probes),
        "exact": lambda m, w: _exact(m, w, data),
        "gauss_newton": lambda m, w: diagonal(m, w, data, "obd", "gauss_newton"),
        "fisher": lambda m, w: diagonal(m, w, data, "obd", "fisher"),
    }
    return _by_diagonal(model, "obd", look_up("obd: curvature", curvature, sources))


def diagonal(
    model: nn.Module,
    weights: list[Weight],
    data: ScoringData,
    criterion: str,
    curvature: str = "fisher",
) -> list[Tensor]:
    """The diagonal of the mean over samples of v v^T, one tensor per weight."""
    sums = [torch.zeros_like(precise(w.parameter.detach())) for w in weights]
    samples = 0
    for vectors in look_up("curvature", curvature, CURVATURES)(model, weights, data, criterion):
        samples += 1
        for vector in vectors:
            for total, part in zip(sums, vector, strict=True):
                total.addcmul_(part, part)
    return [total.div_(samples) for total in sums]


def fisher_vectors(
    model: nn.Module, weights: list[Weight], data: ScoringData, criterion: str
) -> Vectors:
    """One vector a sample: the gradient of its loss."""
    parameters = [w.parameter for w in weights]
    with differentiable(model, weights):
        for inputs, targets in _samples(model, data, criterion):
            loss = data.loss(model(inputs), targets)
            yield [_gradients(loss, parameters)]


def gauss_newton_vectors(
    model: nn.Module, weights: list[Weight], data: ScoringData, criterion: str
) -> Vectors:
    """For each sample and each direction in which its loss bends, J^T (the direction's root).

    With C = sum of u u^T the Hessian of the loss in the outputs and J the outputs' Jacobian, the
    vectors are J^T u: their v v^T sum to J^T C J. For the loss sum (outputs - targets)**2 / 2
    they are the outputs' gradients themselves.
    """
    parameters = [w.parameter for w in weights]
    with differentiable(model, weights):
        for inputs, targets in _samples(model, data, criterion):
            outputs = model(inputs)
            roots = _roots(data, outputs.detach(), targets)
            yield [
                _gradients(outputs, parameters, root.view_as(outputs), keep=index + 1 < len(roots))
                for index, root in enumerate(roots)
            ]


CURVATURES: dict[str, Callable[[nn.Module, list[Weight], ScoringData, str], Vectors]] = {
    "fisher": fisher_vectors,
    "gauss_newton": gauss_newton_vectors,
}


def _by_diagonal(
    model: nn.Module, name: str, source: Callable[[nn.Module, list[Weight]], list[Tensor]]
) -> Scores:
    weights = prunable(model)
    return {
        w.name: precise(w.parameter.detach()).square() * h / 2
        for w, h in zip(weights, source(model, weights), strict=True)
    }


def _samples(
    model: nn.Module, data: ScoringData, criterion: str
) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in data.each(model, criterion):
        for index in range(len(inputs)):
            yield inputs[index : index + 1], targets[index : index + 1]


def _gradients(
    value: Tensor, parameters: list[nn.Parameter], along: Tensor | None = None, keep: bool = False
) -> list[Tensor]:
    found = torch.autograd.grad(value, parameters, along, retain_graph=keep, materialize_grads=True)
    return [precise(gradient) for gradient in found]


def _roots(data: ScoringData, outputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Vectors u with sum u u^T = the Hessian of the loss in the outputs, flattened; K or fewer."""
    flat = outputs.double().flatten().requires_grad_(True)
    wide = targets.double() if targets.is_floating_point() else targets
    loss = data.loss(flat.view_as(outputs), wide)
    (slope,) = torch.autograd.grad(loss, flat, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return []  # the loss is linear in the outputs
    rows = [
        torch.autograd.grad(s, flat, retain_graph=True, materialize_grads=True)[0] for s in slope
    ]
    values, directions = torch.linalg.eigh(torch.stack(rows))
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return [
        (value.sqrt() * direction).to(outputs.dtype)
        for value, direction in zip(values, directions.t(), strict=True)
        if value > floor
    ]


def _hutchinson(
    model: nn.Module, weights: list[Weight], data: ScoringData, probes: int
) -> list[Tensor]:
    sums = [torch.zeros_like(precise(w.parameter.detach())) for w in weights]
    for probe in range(probes):
        signs = [_signs(w, data, probe) for w in weights]
        products = mean_hessian_product(model, weights, data.each(model, "obd"), data.loss, signs)
        for total, sign, product in zip(sums, signs, products, strict=True):
            total.addcmul_(sign, product)
    return [total.div_(probes) for total in sums]


def _signs(weight: Weight, data: ScoringData, probe: int) -> Tensor:
    """+1 and -1 at random, which the seed, the weight's name and the probe decide."""
    bits = torch.randint(2, weight.shape, generator=data.generator("obd", weight.name, probe))
    return (2 * bits - 1).to(weight.parameter)


def _exact(model: nn.Module, weights: list[Weight], data: ScoringData) -> list[Tensor]:
    units = [torch.zeros_like(w.parameter.detach()) for w in weights]
    found = [torch.empty_like(unit) for unit in units]
    for index, unit in enumerate(units):
        for entry in range(unit.numel()):
            unit.view(-1)[entry] = 1
            batches = data.each(model, "obd")
            product = mean_hessian_product(model, weights, batches, data.loss, units)[index]
            found[index].view(-1)[entry] = product.reshape(-1)[entry]
            unit.view(-1)[entry] = 0
    return [precise(entries) for entries in found]

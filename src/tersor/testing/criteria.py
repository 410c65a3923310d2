"""Checks that every criterion has to pass, also one of your own: `check_criterion(criterion)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersor.core.derivatives import Loss
from tersor.core.seeding import generator, rng_state, set_rng_state
from tersor.core.weights import prunable
from tersor.prune.scoring import Criterion, ScoringData

TOLERANCE = 1e-6
"""Of what has to be equal but for rounding errors in float64, as a share of the greatest score."""


def check_criterion(
    criterion: Criterion,
    *,
    network: Callable[[], nn.Module] | None = None,
    data: ScoringData | None = None,
    permuted: bool = True,
    scaled: bool = True,
    dead: bool = False,
) -> None:
    """Check that a criterion gives sound scores and leaves all else as it was.

    Every weight has finite scores of its shape, also a frozen one. Weights, buffers, gradients,
    `requires_grad`, training flags, hooks, the data, the global random generators and the grad
    mode are as they were, and none of them has a say. The same seed gives the same bytes.

    Args:
        criterion: a function `(model, data) -> {name: scores}`.
        network: makes the network to check with, in float64, the same one each time. Its first two
            weights have to be of layers that follow each other, apart from what acts on each
            channel alone. Default: two convolutions and a linear layer, each with a batch
            normalisation behind it.
        data: for that network; default: two batches of images of three classes.
        permuted: hidden units in another order have the same scores in that order.
        scaled: a loss four times as large leaves the order of the scores as it is.
        dead: each weight into a hidden unit that goes nowhere has the score 0. So it is by the
            gradient and by the diagonal of the curvature; not by the weights' sizes, and not by
            curvature between weights, as that unit's outputs may yet be used.

    Raises:
        AssertionError: what was found, and for which weight.

    >>> from tersor.prune.criteria import snip
    >>> check_criterion(snip, dead=True)
    >>> check_criterion(lambda model, data: {"0.weight": torch.ones(1)})
    Traceback (most recent call last):
    AssertionError: criterion <lambda>: no scores for '3.weight', '7.weight'; expected every weight
    """
    case = _Case(criterion, network or example_network, data or example_data())
    before = case.scores()
    _check_shapes(case, before)
    _check_repeats(case, before)
    _check_nothing_changes(case, before)
    if permuted:
        _check_permutation(case, before)
    if scaled:
        _check_scale(case, before)
    if dead:
        _check_dead_unit(case)


def example_network() -> nn.Module:
    """Two convolutions and a linear layer, each with a batch normalisation; float64, seeded."""
    state = rng_state()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4, 3),
        nn.BatchNorm1d(3),
    ).double()
    for norm in network:
        if isinstance(norm, _BatchNorm):
            for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
                if tensor is not None:
                    tensor.detach().uniform_(0.5, 1.5)
    set_rng_state(state)
    return network


def example_data() -> ScoringData:
    """Two batches of 2 x 4 x 4 images of three classes, float64, for `example_network`."""
    draw = generator(0, "testing")
    batches = [
        (
            torch.randn(n, 2, 4, 4, generator=draw, dtype=torch.double),
            torch.randint(3, (n,), generator=draw),
        )
        for n in (4, 3)
    ]
    return ScoringData(batches, seed=1)


@dataclasses.dataclass(frozen=True)
class _Case:
    """A criterion with the network and the data that it is checked with."""

    criterion: Criterion
    network: Callable[[], nn.Module]
    data: ScoringData

    def scores(
        self, model: nn.Module | None = None, data: ScoringData | None = None
    ) -> dict[str, Tensor]:
        found = self.criterion(model or self.network(), data or self.data)
        return {name: found[name] for name in found}

    def require(self, holds: bool, message: str) -> None:
        if not holds:
            name = getattr(self.criterion, "__name__", None) or repr(self.criterion)
            raise AssertionError(f"criterion {name}: {message}")


def _check_shapes(case: _Case, scores: Mapping[str, Tensor]) -> None:
    weights = prunable(case.network())
    missing = [w.name for w in weights if w.name not in scores]
    named = ", ".join(map(repr, missing))
    case.require(not missing, f"no scores for {named}; expected every weight")
    for weight in weights:
        found, name = scores[weight.name], weight.name
        case.require(
            found.shape == weight.shape,
            f"scores of shape {tuple(found.shape)} for {name!r}, expected {tuple(weight.shape)}",
        )
        case.require(
            found.is_floating_point(), f"scores of {found.dtype} for {name!r}, expected floats"
        )
        case.require(
            bool(torch.isfinite(found).all()), f"the scores of {name!r} are not all finite"
        )
        case.require(not found.requires_grad, f"the scores of {name!r} require gradients")


def _check_repeats(case: _Case, expected: Mapping[str, Tensor]) -> None:
    state = rng_state()
    torch.manual_seed(12345)
    found = case.scores()
    set_rng_state(state)
    for name in expected:
        case.require(
            _equal(found[name], expected[name]),
            f"the scores of {name!r} differ from one call to the next: "
            "draw random numbers from data.generator(...)",
        )


def _check_nothing_changes(case: _Case, expected: Mapping[str, Tensor]) -> None:
    """On a model in the midst of a training: frozen in part, with gradients, in mixed modes."""
    model = case.network()
    weights = prunable(model)
    weights[0].parameter.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    global_state = rng_state()
    inside = _snapshot(model, case.data)
    grads = torch.is_grad_enabled()
    found = case.scores(model)
    case.require(torch.is_grad_enabled() == grads, "the grad mode is not what it was")
    case.require(_equal(rng_state(), global_state), "a global random generator is not where it was")
    for what, value in _snapshot(model, case.data).items():
        case.require(_equal(value, inside.get(what)), f"{what} is not what it was")
    for name in expected:
        case.require(
            _equal(found[name], expected[name]),
            f"the scores of {name!r} depend on what is frozen, on .grad or on training flags",
        )


def _snapshot(model: nn.Module, data: ScoringData) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        found[f"the value of {name!r}"] = tensor.clone()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        found[f"the gradient of {name!r}"] = None if grad is None else grad.clone()
        found[f"requires_grad of {name!r}"] = parameter.requires_grad
    for name, module in model.named_modules():
        found[f"the training flag of module {name!r}"] = module.training
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"the number of hooks on module {name!r}"] = [len(h) for h in hooks]
    for index, (inputs, targets) in enumerate(data.batches or ()):
        found[f"batch {index} of the data"] = (inputs.clone(), targets.clone())
    return found


def _check_permutation(case: _Case, expected: Mapping[str, Tensor]) -> None:
    model = case.network()
    first, second = prunable(model)[:2]
    order = torch.arange(first.shape[0]).roll(1)
    places = second.shape[1] // first.shape[0]  # inputs of the second layer for each unit
    columns = (order[:, None] * places + torch.arange(places)).flatten()
    for tensor in _of_units(model):
        tensor.copy_(tensor[order].clone())
    second.parameter.detach().copy_(second.parameter.detach()[:, columns].clone())
    found = case.scores(model)
    moved = {**expected, first.name: expected[first.name][order]}
    moved[second.name] = expected[second.name][:, columns]
    greatest = max(float(s.abs().max()) for s in expected.values())
    for name, score in moved.items():
        case.require(
            bool(((found[name] - score).abs() <= TOLERANCE * greatest).all()),
            f"the scores of {name!r} change when hidden units change places",
        )


def _of_units(model: nn.Module) -> Iterator[Tensor]:
    """What holds a number for each unit of the first layer, up to the second."""
    first, second = prunable(model)[:2]
    modules = list(model.modules())
    begin, end = modules.index(first.module), modules.index(second.module)
    for module in modules[begin:end]:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.dim() and len(tensor) == first.shape[0]:
                yield tensor.detach()


def _check_scale(case: _Case, expected: Mapping[str, Tensor]) -> None:
    def four_times(loss: Loss) -> Loss:
        return lambda outputs, targets: 4 * loss(outputs, targets)

    data = dataclasses.replace(case.data, loss=four_times(case.data.loss))
    found = case.scores(data=data)
    flat = torch.cat([found[name].flatten().double() for name in expected])
    order = torch.cat([s.flatten().double() for s in expected.values()]).argsort(stable=True)
    rising = flat[order]
    slack = TOLERANCE * float(rising.abs().max())
    case.require(
        bool((rising.cummax(0).values - rising <= slack).all()),
        "a loss four times as large puts the weights in another order",
    )


def _check_dead_unit(case: _Case) -> None:
    model = case.network()
    first, second = prunable(model)[:2]
    places = second.shape[1] // first.shape[0]
    second.parameter.detach()[:, :places] = 0
    scores = case.scores(model)
    greatest = max(float(s.abs().max()) for s in scores.values())
    worst = float(scores[first.name][0].abs().max())
    case.require(
        worst <= TOLERANCE * greatest,
        f"a weight of {first.name!r} into a unit that goes nowhere has the score {worst:.3g}, "
        "expected 0",
    )


def _equal(left: Any, right: Any) -> bool:
    """The same, tensors bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and left.numpy(force=True).tobytes() == right.numpy(force=True).tobytes()
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)

"""Cross-layer equalization: channels between two layers scaled so that both have even ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tersor.core.call_order import graph_of, hooked
from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.quantize.fake_quantize import CHILD
from tersor.quantize.folding import FoldedNorm

MOST_SWEEPS = 100

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_NEUTRAL = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Identity,
    FoldedNorm,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
"""f(s x) = s f(x) for s > 0, channel by channel."""

_NEUTRAL_CALLS: frozenset[Any] = frozenset(
    (
        F.relu,
        torch.relu,
        F.leaky_relu,
        F.dropout,
        F.max_pool2d,
        F.avg_pool2d,
        F.adaptive_avg_pool2d,
        F.adaptive_max_pool2d,
        "relu",
        "relu_",
    )
)


def equalize_(model: nn.Module, pairs: Iterable[tuple[str, str]] | None = None) -> Report:
    """Scale the channels between two layers so that their ranges are as large on both sides.

    W1[i] / s_i, bias1[i] / s_i, W2[:, i] * s_i,   s_i = sqrt(max |W1[i]| / max |W2[:, i]|),
    over all pairs again and again until nothing changes. As what lies between is positively
    homogeneous (ReLU, pooling, dropout), the outputs stay; one scale for a whole tensor then loses
    less. Grids with a scale for each output channel gain only on the second layer.

    Args:
        model: changed in place. Fold batch norms first, and quantize activations afterwards.
        pairs: names of two layers each, where you know that only such things lie between them;
            None: those that torch.fx finds.

    Returns:
        A report: of each pair the mean precision before and after, the product over both sides of
        the mean of (range of a channel / range of the tensor).

    Raises:
        ConfigError: no pair is found, or one does not fit; nothing is changed then.

    Source: Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721, eq. 11; a channel
    that is zero on one side is left as it is.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = equalize_(model)
    >>> ranges = [model[0].weight.abs().amax(1), model[2].weight.abs().amax(0)]
    >>> torch.allclose(*ranges)
    True
    """
    skipped: dict[str, str] = {}
    found = list(_found_pairs(model, skipped) if pairs is None else pairs)
    modules = dict(model.named_modules())
    sides = {pair: _sides(modules, *pair) for pair in found}
    if not sides:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:3])
        raise ConfigError(f"equalize_: no two layers that fit ({reasons or 'no layers'})")
    before = {pair: _precision(*two) for pair, two in sides.items()}
    sweeps = 0
    with torch.no_grad():
        while sweeps < MOST_SWEEPS:
            sweeps += 1
            moved = max(_equalize_one(*two) for two in sides.values())
            if moved < 1e-3:
                break
    rows: list[dict[str, Value]] = [
        {
            "first": pair[0],
            "second": pair[1],
            "precision before": before[pair],
            "precision after": _precision(*two),
        }
        for pair, two in sides.items()
    ]
    return Report("Cross-layer equalization", {"pairs": len(rows), "sweeps": sweeps}, rows, skipped)


class _Side:
    """The ranges of the channels of a layer on the side that they are on, and their scaling."""

    def __init__(self, layer: nn.Module, channels: int, *, outputs: bool) -> None:
        assert isinstance(layer.weight, Tensor)
        self.layer, self.outputs = layer, outputs
        weight = layer.weight.detach()
        if outputs:
            self.view = weight.view(1, 1, channels, -1)
        else:  # (groups, out / groups, in / groups, places): views of the weight itself
            groups = getattr(layer, "groups", 1)
            self.view = weight.view(groups, weight.shape[0] // groups, channels // groups, -1)

    def ranges(self) -> Tensor:
        """(channels,) largest absolute weights."""
        return self.view.abs().amax((1, 3)).flatten()

    def multiply(self, factors: Tensor) -> None:
        if not self.outputs:
            self.view.mul_(factors.view(len(self.view), 1, -1, 1))
            return
        self.view.mul_(factors.view(1, 1, -1, 1))
        if isinstance(self.layer.bias, Tensor):
            self.layer.bias.detach().mul_(factors)


def _equalize_one(first: _Side, second: _Side) -> float:
    """One pair once; how far the factors were from 1."""
    one, two = first.ranges().double(), second.ranges().double()
    both = (one > 0) & (two > 0)
    factors = torch.where(both, (one / two).sqrt(), 1.0)
    first.multiply((1 / factors).to(first.view))
    second.multiply(factors.to(second.view))
    return float((factors - 1).abs().max())


def _precision(first: _Side, second: _Side) -> float:
    each = [ranges / ranges.max().clamp(min=1e-30) for ranges in (first.ranges(), second.ranges())]
    return float((each[0] * each[1]).mean())


def _sides(modules: Mapping[str, nn.Module], one: str, two: str) -> tuple[_Side, _Side]:
    for name in (one, two):
        if not isinstance(modules.get(name), _LAYERS):
            raise ConfigError(f"equalize_: {name!r} is no linear or convolutional layer")
        if CHILD in modules[name]._modules:
            raise ConfigError(
                f"equalize_: the input of {name!r} is quantized, and its range would be another. "
                "Equalize first"
            )
    first, second = modules[one], modules[two]
    assert isinstance(first.weight, Tensor)
    assert isinstance(second.weight, Tensor)
    channels = first.weight.shape[0]
    inputs = second.weight.shape[1] * int(getattr(second, "groups", 1))
    spread = isinstance(second, nn.Linear) and not isinstance(first, nn.Linear)
    if inputs != channels and not (spread and inputs % channels == 0):
        raise ConfigError(
            f"equalize_: {one!r} has {channels} outputs, but {two!r} takes {inputs} inputs"
        )
    return _Side(first, channels, outputs=True), _Side(second, channels, outputs=False)


def _found_pairs(model: nn.Module, skipped: dict[str, str]) -> Iterator[tuple[str, str]]:
    graph = graph_of(model)
    if graph is None:
        raise ConfigError(
            f"equalize_: torch.fx cannot trace {type(model).__name__}; say which layers follow "
            "each other, pairs=[('conv1', 'conv2')]"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))

    def alone(name: str) -> bool:
        layer = modules[name]
        return calls[id(layer)] == 1 and all(uses[id(p)] == 1 for p in layer.parameters())

    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _LAYERS):
            continue
        name = str(node.target)
        if not alone(name):
            skipped[name] = "it is called twice, or shares its parameters"
            continue
        if hooked(modules[name]):
            skipped[name] = "hooks are registered on it"
            continue
        second, reason = _next_layer(node, modules)
        if reason or second is None or not alone(second):
            skipped[name] = reason or f"{second} is called twice, or shares its parameters"
            continue
        if hooked(modules[second]):
            skipped[name] = f"hooks are registered on {second}"
            continue
        yield name, second


def _next_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[str | None, str]:
    """The layer that takes a layer's outputs through nothing but neutral things, or why none."""
    while True:
        if len(node.users) != 1:
            return None, "its output goes to several places"
        (user,) = node.users
        if user.args[:1] != (node,):
            return None, f"its output goes into {user.name}"
        if user.op == "call_module":
            module = modules[str(user.target)]
            if isinstance(module, _LAYERS):
                return str(user.target), ""
            if not _is_neutral(module):
                return None, f"{type(module).__name__} stands behind it"
        elif user.op == "output":
            return None, "its output is the model's"
        elif not (user.target in _NEUTRAL_CALLS or _flattens(user)):
            return None, f"{user.name} stands behind it"
        node = user


def _is_neutral(module: nn.Module) -> bool:
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope >= 0
    return isinstance(module, _NEUTRAL)


def _flattens(node: fx.Node) -> bool:
    if node.target is torch.flatten or node.target == "flatten":
        return node.args[1:] == (1,) and not node.kwargs
    return False

"""In which order a model calls its modules, and what stands right behind a layer."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn


def order_of_calls(model: nn.Module) -> dict[str, str]:
    """Which module takes a module's output, by qualified names, where it is the only one that does.

    The order is that of the model's graph where torch.fx can trace it, else that of each
    `nn.Sequential`. A module that is called twice is no part of it.
    """
    graph = graph_of(model)
    return dict(_sequential_pairs(model) if graph is None else _traced_pairs(model, graph))


def graph_of(model: nn.Module) -> fx.Graph | None:
    """The calls of a model as a graph, or None where torch.fx cannot trace it."""
    # Tracing runs the model's own code on proxies: it may fail in any way, which says only that
    # the order of calls is not known.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fx.Tracer().trace(model)
    except Exception:
        return None


def is_norm_of(layer: nn.Module, after: nn.Module) -> bool:
    """Whether a module is a batch norm of this layer's outputs, with statistics of its own."""
    kind = next((norm for layers, norm in _NORMS if isinstance(layer, layers)), None)
    return type(after) is kind and after.running_mean is not None and not hooked(after)


_NORMS: tuple[tuple[tuple[type[nn.Module], ...], type[nn.Module]], ...] = (
    ((nn.Linear, nn.Conv1d), nn.BatchNorm1d),
    ((nn.Conv2d,), nn.BatchNorm2d),
    ((nn.Conv3d,), nn.BatchNorm3d),
)


def norm_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as scale and shift of each channel: x * scale + shift."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale.float(), shift.float()


def hooked(module: nn.Module) -> bool:
    """Whether other code is called with what the module takes or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _traced_pairs(model: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[n.target]) for n in graph.nodes if n.op == "call_module")
    for node in graph.nodes:
        users = list(node.users)
        if node.op != "call_module" or len(users) != 1 or users[0].op != "call_module":
            continue
        user = users[0]
        alone = user.args == (node,) and not user.kwargs
        if alone and calls[id(modules[node.target])] == calls[id(modules[user.target])] == 1:
            yield str(node.target), str(user.target)


def _sequential_pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    places = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    for name, module in model.named_modules():
        if type(module) is not nn.Sequential:
            continue
        children = list(module.named_children())
        for (first, one), (second, two) in itertools.pairwise(children):
            if places[id(one)] == places[id(two)] == 1:
                prefix = f"{name}." if name else ""
                yield prefix + first, prefix + second

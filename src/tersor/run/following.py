"""What follows a layer and can be done in the same pass: a batch norm, an activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from tersor.core.call_order import hooked, is_norm_of
from tersor.run.calls import Activation


@dataclass(frozen=True)
class Following:
    """The modules behind a layer, by qualified name; None = there is none.

    Args:
        norm: a batch norm that takes the layer's output alone.
        activation: an activation module behind that.
    """

    norm: str | None = None
    activation: str | None = None


NOTHING = Following()


def followings(model: nn.Module, order: Mapping[str, str]) -> dict[str, Following]:
    """What follows each layer of a model, by the layer's name; only layers that something follows.

    Args:
        model: any module.
        order: of its calls.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, Following] = {}
    for name in order:
        norm: str | None = None
        after: str | None = order[name]
        layer = modules[name]
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if after is not None and is_norm_of(layer, modules[after]):
            norm, after = after, order.get(after)
        if after is not None and (activation_of(modules[after]) is None or hooked(modules[after])):
            after = None
        if norm is not None or after is not None:
            found[name] = Following(norm, after)
    return found


def activation_of(module: nn.Module) -> Activation | None:
    """The name of an activation that the kernels know, or None."""
    kind = type(module)
    if kind is nn.ReLU:
        return "relu"
    if kind is nn.GELU:
        return "gelu" if getattr(module, "approximate", "none") == "none" else "gelu_tanh"
    if kind is nn.SiLU:
        return "silu"
    return None

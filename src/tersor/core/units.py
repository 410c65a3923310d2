"""A weight by output unit, (units, inputs of a unit), whatever layout its layer gives it.

A unit is an output of the layer: a row of a Linear, a filter of a convolution, a row of a gate of a
recurrent layer, the vector of a word.
"""

from __future__ import annotations

from torch import Tensor, nn

from tersor.core.weights import Weight


def as_units(weight: Weight, values: Tensor) -> Tensor:
    """Values in the weight's shape as (units, inputs of a unit), inputs in the weight's order."""
    if weight.kind == "conv_transposed":  # (in, out / groups, *kernel), the groups along in
        groups = group_count(weight)
        parts = values.reshape(groups, -1, *values.shape[1:])  # (groups, in / groups, out / g, *)
        return parts.transpose(1, 2).reshape(groups * values.shape[1], -1)
    if _is_turned(weight):  # (in, out)
        return values.t()
    return values.reshape(values.shape[0], -1)


def from_units(weight: Weight, values: Tensor) -> Tensor:
    """The inverse of `as_units`; of (units, 1), each entry of a unit has the unit's value."""
    if weight.kind == "conv_transposed":
        groups, (inputs, outputs, *kernel) = group_count(weight), weight.shape
        values = values.expand(groups * outputs, weight.shape.numel() // (groups * outputs))
        parts = values.reshape(groups, outputs, inputs // groups, *kernel)
        return parts.transpose(1, 2).reshape(weight.shape)
    if _is_turned(weight):
        return values.t().expand(weight.shape).contiguous()
    entries = weight.shape.numel() // max(weight.shape[0], 1)
    return values.expand(weight.shape[0], entries).reshape(weight.shape)


def group_count(weight: Weight) -> int:
    """The groups of a convolution; 1 for every other layer."""
    groups = getattr(weight.module, "groups", 1)
    return groups if isinstance(groups, int) else 1


def users(model: nn.Module, weight: Weight) -> list[nn.Module]:
    """Every module that has this very tensor as its `weight`: several, if they are tied."""
    return [m for m in model.modules() if getattr(m, "weight", None) is weight.parameter]


def _is_turned(weight: Weight) -> bool:
    return type(weight.module).__name__ == "Conv1D"  # Hugging Face's linear layer

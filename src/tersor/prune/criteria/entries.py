"""The entries of a weight: in what precision, by output unit, and which layers use them.

A unit is an output of the layer: a row of a Linear, a filter of a convolution, a row of a gate of a
recurrent layer, the vector of a word. A criterion for units gives each entry of a unit the unit's
number, so the mean over any group of entries of one unit is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Weight
from tersor.prune.scoring import Lazily, Scores


def precise(values: Tensor) -> Tensor:
    """At least float32: a product of a weight and a gradient vanishes in 16 bits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


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


def refusing(criterion: str, scores: Mapping[str, Tensor], refused: Mapping[str, str]) -> Scores:
    """These scores; whoever asks for those of a refused weight is told why there are none.

    So a weight that a criterion cannot score is no obstacle as long as it does not take part.
    """
    if not refused:
        return scores
    makers = {name: partial(scores.__getitem__, name) for name in scores}
    return Lazily(
        {**makers, **{n: partial(_refuse, criterion, n, why) for n, why in refused.items()}}
    )


def _refuse(criterion: str, name: str, why: str) -> NoReturn:
    raise ConfigError(
        f"criterion {criterion!r} cannot score {name!r}: {why}. "
        f"Leave it out, ignore=[{name!r}], or take another criterion"
    )


def _is_turned(weight: Weight) -> bool:
    return type(weight.module).__name__ == "Conv1D"  # Hugging Face's linear layer

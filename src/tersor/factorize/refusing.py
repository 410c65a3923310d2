"""Which weights a factorizer takes, and why not others."""

from __future__ import annotations

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Weight
from tersor.factorize.factorizer import Factorizer
from tersor.factorize.factors import Factors
from tersor.factorize.layers import CONVOLUTIONS
from tersor.factorize.recurrent import WeightFactors, stand_in, takes

WHOLE = (nn.Linear, *CONVOLUTIONS, nn.Embedding)
"""What is replaced: these and no classes derived from them, which may do more in `forward`."""


def refusal(model: nn.Module, weight: Weight, factorizer: Factorizer) -> str:
    """Why a weight cannot have factors, or "".

    Raises:
        ConfigError: a weight is NaN or infinite.
    """
    if weight.aliases:
        return f"shared with {', '.join(weight.aliases)}: factors would end that"
    if isinstance(weight.module, WeightFactors):
        return "it is a factor already"
    if takes(weight.module):
        _require_finite(weight)
        return factorizer.refuses(layer_of(weight))
    if not weight.name.endswith("weight") or not hasattr(weight.module, "weight"):
        return f"takes whole layers, this is one of the weights of {type(weight.module).__name__}"
    name = weight.name.rpartition(".")[0]
    if not name:
        return "the model is this layer itself: put it into a Sequential"
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "attention reads this weight itself"
    if isinstance(parent, Factors) or any(
        isinstance(model.get_submodule(name.rsplit(".", k)[0]), Factors)
        for k in range(1, name.count(".") + 1)
    ):
        return "it is a factor already"
    if type(weight.module).__name__ == "Conv1D":
        return "a Conv1D of Hugging Face has its weight the other way round"
    if weight.kind == "conv_transposed":
        return "takes no transposed convolutions"
    if type(weight.module) not in WHOLE:
        kind = type(weight.module).__name__
        return f"factors would not do what {kind} makes of it beyond torch's own layers"
    if weight.module._forward_hooks or weight.module._forward_pre_hooks:
        return "it has forward hooks, which would be lost: remove them first"
    _require_finite(weight)
    return factorizer.refuses(weight.module)


def layer_of(weight: Weight) -> nn.Module:
    """The layer of a weight; for one of a recurrent layer a linear layer with it."""
    return stand_in(weight.parameter) if takes(weight.module) else weight.module


def _require_finite(weight: Weight) -> None:
    if not bool(torch.isfinite(weight.parameter.detach()).all()):
        raise ConfigError(f"factorize: {weight.name!r}: a weight is NaN or infinite")

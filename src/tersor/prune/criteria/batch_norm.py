"""Network slimming: a channel matters as much as the batch normalisation behind it scales it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersor.core.derivatives import differentiable
from tersor.core.units import from_units, users
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.entries import precise, refusing
from tersor.prune.scoring import Scores, ScoringData


def batch_norm_scale(model: nn.Module, data: ScoringData) -> Scores:
    """|gamma| of the batch normalisation that takes a layer's very output, for each unit.

    The first batch is run once to see which one that is: nothing else of it is looked at. Layers
    without one have no scores, so leave them out with `ignore=`.

    Raises:
        ConfigError: there is no data; or, when it is asked for, a weight's layer has no batch
            normalisation behind it.

    Source: Liu, Li, Shen, Huang, Yan and Zhang 2017, arXiv 1708.06519, section 3; the penalty
    |gamma| while training is not part of a criterion.
    """
    weights = prunable(model)
    behind = _norms_behind(model, weights, data)
    scores: dict[str, Tensor] = {}
    refused: dict[str, str] = {}
    for weight in weights:
        scales = behind.get(weight.name)
        if scales is None:
            refused[weight.name] = "no batch normalisation with a scale takes its layer's output"
        else:
            scores[weight.name] = from_units(weight, precise(scales).abs()[:, None])
    return refusing("batch_norm_scale", scores, refused)


def _norms_behind(model: nn.Module, weights: list[Weight], data: ScoringData) -> dict[str, Tensor]:
    outputs: list[tuple[str, Tensor]] = []  # held, so that no other tensor is taken for one
    behind: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: outputs.append((name, output))

    def compare(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        for name, output in outputs:
            if output is args[0] and isinstance(module.weight, Tensor):
                behind[name] = module.weight.detach()

    with contextlib.ExitStack() as stack:
        stack.enter_context(differentiable(model))
        stack.enter_context(torch.no_grad())
        for weight in weights:
            if weight.kind in ("linear", "conv", "conv_transposed"):
                for module in users(model, weight):
                    handle = module.register_forward_hook(remember(weight.name))
                    stack.callback(handle.remove)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(compare).remove)
        inputs, _ = next(data.each(model, "batch_norm_scale"))
        model(inputs)
    return behind

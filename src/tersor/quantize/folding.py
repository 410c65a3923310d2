"""Batch norms into the layers before them: what an integer machine has no operation for."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from tersor.core.call_order import hooked, is_norm_of, norm_of, order_of_calls
from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FoldedNorm(nn.Identity):
    """Where a batch norm was that is part of a layer now.

    Args:
        into: the layer's name.
    """

    def __init__(self, into: str) -> None:
        super().__init__()
        self.into = into

    def extra_repr(self) -> str:
        return f"into={self.into!r}"


def fold_batch_norms_(model: nn.Module) -> Report:
    """Make each batch norm part of the layer right before it; in eval mode the outputs stay.

    W <- W * s,  bias <- bias * s + shift,   s = gamma / sqrt(variance + eps), of each output,
    with the running statistics. The norm becomes a `FoldedNorm`, which does nothing; a layer
    without a bias gets one. Zeros stay zero. Where torch.fx cannot trace the model, only what
    stands next to each other in an `nn.Sequential` is found.

    Raises:
        ConfigError: no norm can be folded.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 14; here once, after training.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)).eval()
    >>> model[1].running_mean.fill_(3.0)
    tensor([3., 3.])
    >>> _ = fold_batch_norms_(model)
    >>> [round(x, 4) for x in model[0].bias.tolist()]
    [-3.0, -3.0]
    """
    order = order_of_calls(model)
    modules = dict(model.named_modules())
    weights = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    pairs: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, module in modules.items():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        before = next((first for first, second in order.items() if second == name), None)
        layer = modules[before] if before is not None else None
        skipped[name] = _why_not(layer, module, weights)
        if not skipped[name] and before is not None:
            pairs[before] = name
            del skipped[name]
    if not pairs:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:3]) or "there are none"
        raise ConfigError(f"fold_batch_norms_: no batch norm to fold ({reasons})")
    rows: list[dict[str, Value]] = []
    for before, name in pairs.items():
        layer = modules[before]
        scale, shift = norm_of(modules[name])
        _scale_outputs(layer, scale, shift)
        replace(model, name, FoldedNorm(before))
        rows.append({"name": before, "norm": name, "largest scale": float(scale.abs().max())})
    return Report("Folding of batch norms", {"folded": len(rows)}, rows, skipped)


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another one."""
    parent, _, child = name.rpartition(".")
    new.training = model.get_submodule(name).training
    setattr(model.get_submodule(parent), child, new)


def give_bias(layer: nn.Module) -> Tensor:
    """The bias of a layer; one that has none gets zeros."""
    if layer.bias is None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.bias = nn.Parameter(torch.zeros_like(weight[:, :1].flatten(1)[:, 0]))
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias


def _why_not(layer: nn.Module | None, norm: nn.Module, uses: Counter[int]) -> str:
    if not isinstance(layer, _LAYERS) or not is_norm_of(layer, norm):
        return "what comes in is not the output of one linear or convolutional layer alone"
    if hooked(norm) or layer._forward_hooks:
        return "hooks are registered between the layer and it"
    if any(uses[id(parameter)] > 1 for parameter in layer.parameters()):
        return "other modules use the layer's parameters, too"
    if norm.num_features != layer.weight.shape[0]:
        return "its channels are not the layer's outputs"
    return ""


def _scale_outputs(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    weight, bias = layer.weight, give_bias(layer)
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        rows = scale.view(-1, *[1] * (weight.dim() - 1)).double()
        weight.copy_((weight.double() * rows).add_(0.0))
        bias.copy_(bias.double() * scale.double() + shift.double())

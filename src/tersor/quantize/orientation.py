"""Weights with output channels first, and back to how their module stores them."""

from __future__ import annotations

from torch import Tensor

from tersor.core.weights import Weight


def outputs_first(weight: Weight, tensor: Tensor) -> Tensor:
    """A tensor shaped as a weight, seen as `(out, in, *kernel)`.

    A transposed convolution stores (in, out / groups, *kernel), Hugging Face's Conv1D (in, out);
    all else has its outputs first already.

    >>> import torch
    >>> from torch import nn
    >>> from tersor.core.weights import prunable
    >>> [weight] = prunable(nn.ConvTranspose2d(4, 6, 3, groups=2))
    >>> tuple(weight.shape), tuple(outputs_first(weight, weight.parameter).shape)
    ((4, 3, 3, 3), (6, 2, 3, 3))
    """
    if weight.kind == "conv_transposed":
        groups = _groups(weight)
        ins, outs, *kernel = tensor.shape
        apart = tensor.reshape(groups, ins // groups, outs, *kernel).transpose(1, 2)
        return apart.reshape(groups * outs, ins // groups, *kernel)
    return tensor.t() if _inputs_first(weight) else tensor


def as_stored(weight: Weight, tensor: Tensor) -> Tensor:
    """What `outputs_first` turned, in the weight's own shape again."""
    if weight.kind == "conv_transposed":
        groups = _groups(weight)
        outs, ins, *kernel = tensor.shape
        apart = tensor.reshape(groups, outs // groups, ins, *kernel).transpose(1, 2)
        return apart.reshape(weight.shape)
    return tensor.t() if _inputs_first(weight) else tensor


def _groups(weight: Weight) -> int:
    return int(getattr(weight.module, "groups", 1))


def _inputs_first(weight: Weight) -> bool:
    return type(weight.module).__name__ == "Conv1D" and weight.kind == "linear"

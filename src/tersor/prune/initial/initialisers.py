"""First weights whose scale suits pruning before training, where `torch.nn.init` has none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.initial.blocks import blocks

Initialiser = Callable[[Tensor], Tensor | None]
"""Fills a weight in place, as the functions of `torch.nn.init` do."""


def variance_scaling_(tensor: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill a weight with a normal distribution of variance 1 / fan_in, truncated at two deviations.

    Args:
        tensor: (out, in, *kernel), changed in place; fan_in = in * product of the kernel.
        generator: of the random numbers; without it torch's global one.

    Raises:
        ConfigError: the tensor has fewer than two dimensions.

    Source: TensorFlow's `variance_scaling_initializer` with its defaults, as the released code of
    Lee, Ajanthan and Torr 2019 (arXiv 1810.02340) uses it. Before truncation the deviation is
    sqrt(1 / fan_in), after it 0.88 of that, as in that release; later TensorFlow corrects for it.

    >>> weight = variance_scaling_(torch.empty(200, 400), generator=torch.manual_seed(0))
    >>> round(weight.std().item(), 3), weight.abs().max().item() <= 2 / 20
    (0.044, True)
    """
    if tensor.dim() < 2:
        raise ConfigError(
            f"variance_scaling_: shape {tuple(tensor.shape)}; expected (out, in, *kernel)"
        )
    deviation = tensor[0].numel() ** -0.5
    return nn.init.trunc_normal_(
        tensor, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator
    )


def delta_orthogonal_(
    tensor: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a convolution's kernel with zeros but for an orthogonal matrix at its centre.

    Such a layer with stride 1 and "same" padding keeps the norm of every input, borders included.

    Args:
        tensor: (out, in, *kernel) with in <= out and odd sides of the kernel; changed in place.
        gain: of the orthogonal matrix.
        generator: of the random numbers; without it torch's global one.

    Raises:
        ConfigError: no kernel, more inputs than outputs, or a kernel without a centre.

    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington 2018, arXiv 1806.05393,
    algorithm 1.

    >>> kernel = delta_orthogonal_(torch.empty(4, 3, 3, 3))
    >>> middle = kernel[:, :, 1, 1]
    >>> torch.allclose(middle.T @ middle, torch.eye(3), atol=1e-6), (kernel != 0).sum().item()
    (True, 12)
    """
    out, inputs, *kernel = tensor.shape if tensor.dim() > 2 else (0, 0)
    if not kernel or inputs > out or not all(side % 2 for side in kernel):
        raise ConfigError(
            f"delta_orthogonal_: shape {tuple(tensor.shape)}; expected (out, in, *kernel) with "
            "in <= out and a kernel of odd sides. nn.init.orthogonal_ takes any"
        )
    with torch.no_grad():
        tensor.zero_()
        middle = tensor
        for side in kernel:
            middle = middle.select(2, side // 2)  # a view, in the end (out, in)
        # torch's own, on a matrix: where in <= out its columns are orthonormal.
        matrix = tensor.new_empty(out, inputs)
        middle.copy_(nn.init.orthogonal_(matrix, gain, generator=generator))
    return tensor


def initialise_(model: nn.Module, initialiser: Initialiser) -> None:
    """Fill every prunable weight by one function, and set the bias beside it to zero, in place.

    Gates, groups and projections that share one tensor are filled one by one. What belongs to a
    normalisation layer, and all buffers, stay.

    Args:
        model: changed in place.
        initialiser: for instance `torch.nn.init.orthogonal_` or `variance_scaling_`.

    >>> net = nn.Linear(5, 5)
    >>> initialise_(net, nn.init.orthogonal_)
    >>> torch.allclose(net.weight @ net.weight.T, torch.eye(5), atol=1e-6), net.bias.sum().item()
    (True, 0.0)
    """
    with torch.no_grad():
        for weight in prunable(model):
            for block in blocks(weight, weight.parameter):
                initialiser(block)
            for name, bias in weight.module.named_parameters(recurse=False):
                if name.startswith(("bias", "in_proj_bias")):
                    bias.zero_()

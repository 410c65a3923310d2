"""What all learned masks share: frozen weights, a binary mask, and a gradient past it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.core.weights import Weight


def straight_through(mask: Tensor, smooth: Tensor) -> Tensor:
    """The mask's exact 0 and 1, with the gradient of `smooth`.

    Source: Bengio, Leonard and Courville 2013, arXiv 1308.3432, section 4.

    >>> import torch
    >>> scores = torch.tensor([0.3, -0.2], requires_grad=True)
    >>> mask = straight_through(scores > 0, scores)
    >>> mask.sum().backward()
    >>> mask.tolist(), scores.grad
    ([1.0, 0.0], tensor([1., 1.]))
    """
    return mask.to(smooth.dtype) + (smooth - smooth.detach())  # the bracket is exactly zero


class Frozen:
    """Which parameters of a layer were frozen, so that they can be trained again later.

    Args:
        weight: frozen from now on, with all else that its layer itself owns (the bias).
    """

    def __init__(self, weight: Weight) -> None:
        parameters = dict(weight.module.named_parameters(recurse=False))
        self.names = [name for name, p in parameters.items() if p.requires_grad]
        for parameter in parameters.values():
            parameter.requires_grad_(False)

    def thaw(self, layer: nn.Module) -> None:
        """Let them train again."""
        for name in self.names:
            getattr(layer, name).requires_grad_(True)


def mask_with(weight: Weight, mask: nn.Module) -> None:
    """Put a mask before a weight, as a parametrization of it."""
    parametrize.register_parametrization(weight.module, "weight", mask)

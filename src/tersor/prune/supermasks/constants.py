"""Weights that suit a mask: one size for a whole layer, a random sign for each weight."""

from __future__ import annotations

import math

import torch
from torch import nn

from tersor.core.report import Report
from tersor.core.seeding import generator
from tersor.core.weights import Selectors
from tersor.prune.allocation import kept_count
from tersor.prune.learned.layers import maskable, prepared


def signed_constant_(
    model: nn.Module,
    density: float = 1.0,
    *,
    seed: int = 0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Set every weight to +c or -c, in place, c = sqrt(2 / (fan_in * density)) of its layer.

    So a network with ReLUs and that density keeps the size of its activations. Biases of these
    layers become zero, as a mask cannot switch them off.

    Args:
        density: the share of weights that will be in use; 1 does not scale.
        seed: of the signs.
        select, ignore: which weights take part; of them those of Linear and Conv2d.

    Raises:
        ConfigError: the density is out of range, or no weight can take part.

    Source: "signed Kaiming constant" with scaled fan of Ramanujan et al. 2020, arXiv 1911.13299,
        section 4.1.

    >>> layer = nn.Linear(8, 2)
    >>> _ = signed_constant_(layer, 0.25)
    >>> layer.weight.abs().unique().tolist(), layer.bias.tolist()
    ([1.0], [0.0, 0.0])
    """
    kept_count(0, density)
    weights, skipped = maskable(model, select=select, ignore=ignore)
    with torch.no_grad():
        for weight in weights:
            draw = generator(seed, "signed constant", weight.name)
            positive = torch.randint(0, 2, weight.shape, generator=draw, dtype=torch.bool)
            fan_in = weight.shape[1:].numel()
            size = math.sqrt(2 / (fan_in * density))
            weight.parameter.copy_(torch.where(positive, size, -size))
            if isinstance(bias := getattr(weight.module, "bias", None), torch.Tensor):
                bias.zero_()
    rows = [(weight, weight.parameter.numel()) for weight in weights]
    return prepared("Signed constants", rows, skipped, column="signs")

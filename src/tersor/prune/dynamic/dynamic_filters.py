"""Filters that are switched off and can come back: dynamic filter pruning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Selectors, survey
from tersor.prune.allocation import kept_count
from tersor.prune.dynamic.sparse_view import SparseView
from tersor.prune.selection import highest, highest_of_all


def dynamic_filters(
    model: nn.Module,
    density: float,
    *,
    every: int = 100,
    select: Selectors = None,
    ignore: Selectors = None,
) -> SparseView:
    """Show the filters with the largest mean |w| of all layers together, and train all of them.

    Filters are taken from the best on, the best of each layer first of all, until the next one
    would make more than `round(density * n)` weights. One that is switched off goes on training,
    with the gradient of the network without it, and comes back when it is large enough.

    Args:
        density: kept / all weights of the filters, 0 < density <= 1.
        every: optimizer steps between two choices.
        select: layers whose outputs (rows of the weight) are filters; all convolutions without it.

    Raises:
        ConfigError: the density is out of range or too small, or there is no convolution.

    Source: Lin et al. 2018, IJCAI, "Accelerating convolutional networks via global and dynamic
    filter pruning", section 3. Their saliency is a first-order one, here it is the mean |w|.

    >>> net = nn.Conv2d(1, 8, 3)
    >>> method = dynamic_filters(net, 0.25)
    >>> with method.attach(torch.optim.SGD(net.parameters(), 0.1)):
    ...     int((net.weight.flatten(1).abs().sum(1) != 0).sum())
    2
    """
    found, skipped = survey(model, select=select, ignore=ignore)
    weights = [weight for weight in found if select is not None or weight.kind == "conv"]
    skipped |= {w.name: "no convolution, and not selected" for w in found if w not in weights}
    if not weights:
        raise ConfigError("dynamic_filters: no convolution; name layers with select=")
    costs = {w.name: w.parameter[0].numel() for w in weights}
    total = sum(weight.parameter.numel() for weight in weights)
    budget = kept_count(total, density) - sum(costs.values())
    if budget < 0:
        raise ConfigError(
            f"density: {density} of {total:,} weights; expected at least one filter of each "
            f"layer, {sum(costs.values()) / total:.4g}"
        )

    def choose(dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        means = {name: weight.abs().flatten(1).mean(1) for name, weight in dense.items()}
        # The best of each layer are paid for already.
        others = {name: mean.sort(descending=True).values[1:] for name, mean in means.items()}
        counts = highest_of_all(others, budget, costs)
        return {
            name: _rows(highest(mean, 1 + counts[name]), dense[name])
            for name, mean in means.items()
        }

    return SparseView(model, weights, choose, every=every, skipped=skipped)


def _rows(kept: Tensor, like: Tensor) -> Tensor:
    """A mask of whole rows; (out,) to (out, *)."""
    ones = torch.ones_like(like, dtype=torch.bool)
    return ones & kept.view(-1, *[1] * (like.dim() - 1))

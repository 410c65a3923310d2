"""One number for a whole weight or for each of its output channels: a scale and how it is found."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean

SCALE_SHARES = ("tensor", "channel")
"""What may share a scale where there are only a few values."""


def check_share(granularity: str) -> None:
    """Check what shares a scale.

    Raises:
        ConfigError: it is neither "tensor" nor "channel".
    """
    if granularity not in SCALE_SHARES:
        raise ConfigError(f"granularity {granularity!r}: {did_you_mean(granularity, SCALE_SHARES)}")


def as_rows(tensor: Tensor, granularity: str) -> Tensor:
    """A tensor shaped as the weight, as (groups, entries): one group, or the output channels."""
    groups = 1 if granularity == "tensor" or tensor.dim() == 0 else tensor.shape[0]
    return tensor.reshape(groups, -1)


def per_entry(numbers: Tensor, weight: Tensor) -> Tensor:
    """A number for each group, (groups,), so shaped that it broadcasts to the weight."""
    return numbers.view(-1, *[1] * (weight.dim() - 1)) if weight.dim() else numbers.view(())


def importances(weight: Tensor, kept: Tensor | None, importance: Tensor | None) -> Tensor:
    """How much each entry counts, float64: 0 where it is not kept, 1 where nothing is said."""
    counts = torch.ones_like(weight, dtype=torch.float64) if importance is None else importance
    counts = counts.double()
    return counts if kept is None else torch.where(kept, counts, 0.0)


def mean_of(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of each row's non-negative values, each counted so much; 0 where nothing counts.

    It never leaves the range of what counts, so the mean of equal numbers is that number.

    >>> mean_of(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]]).double())
    tensor([1.7500])
    """
    if values.shape[1] == 0:
        return values.new_zeros(len(values))
    total = counts.sum(1)
    mean = (values.double() * counts).sum(1) / total.clamp(min=torch.finfo(torch.float64).tiny)
    counted = counts > 0
    least = torch.where(counted, values, torch.inf).amin(1)
    greatest = torch.where(counted, values, 0.0).amax(1)
    # In this order: where nothing counts, the least is infinite and the greatest 0.
    return torch.minimum(torch.maximum(mean.to(values.dtype), least), greatest)

"""The mean loss of a network over a set of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.errors import DataError
from tersor.core.observing import observing
from tersor.tasks import Batches


def mean_loss(
    model: nn.Module,
    loader: Batches,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> float:
    """The mean over all samples, in eval mode and on the model's own device.

    Training flags and random generators are afterwards as they were.

    Args:
        model: gives outputs for a batch of inputs.
        loader: batches of (inputs, targets); a smaller last one counts less.
        loss: `outputs, targets -> scalar`, the mean over the batch.

    Raises:
        DataError: there are no samples.

    >>> import torch
    >>> batches = [(torch.zeros(3, 2), torch.ones(3, 1)), (torch.zeros(1, 2), torch.zeros(1, 1))]
    >>> zeros = nn.Linear(2, 1, bias=False)
    >>> mean_loss(zeros, batches, F.mse_loss)
    0.75
    """
    total, samples = 0.0, 0
    with observing(model) as device:
        for inputs, targets in loader:
            value = loss(model(inputs.to(device)), targets.to(device)).item()
            total, samples = total + value * len(inputs), samples + len(inputs)
    if samples == 0:
        raise DataError("mean_loss: the loader gives no samples, so there is no loss to tell")
    return total / samples

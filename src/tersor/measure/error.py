"""How often a network is wrong, with the number of samples that says how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tersor.core.errors import ConfigError, DataError
from tersor.core.observing import observing
from tersor.tasks import Batches, top1_mistakes

_Z = 1.959963984540054  # the normal distribution leaves 2.5 % above it


@dataclass(frozen=True)
class Error:
    """Mistakes among samples.

    >>> Error(mistakes=164, samples=10_000).percent
    1.64
    """

    mistakes: int
    samples: int

    @property
    def percent(self) -> float:
        """Mistakes in a hundred samples."""
        return 100 * self.mistakes / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `percent`, for samples drawn at random.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),   z = 1.96

        Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

        >>> [round(bound, 2) for bound in Error(mistakes=164, samples=10_000).interval]
        [1.41, 1.91]
        """
        n, p, z = self.samples, self.mistakes / self.samples, _Z
        middle = p + z**2 / (2 * n)
        reach = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        low, high = ((middle + sign * reach) / (1 + z**2 / n) for sign in (-1, 1))
        return 100 * max(low, 0.0), 100 * min(high, 1.0)


def evaluate(
    model: nn.Module,
    loader: Batches,
    *,
    mistakes: Callable[[Tensor, Tensor], Tensor] = top1_mistakes,
) -> Error:
    """Count the mistakes of a model, in eval mode and on its own device.

    Training flags and random generators are afterwards as they were.

    Args:
        model: gives outputs for a batch of inputs.
        loader: batches of (inputs, targets).
        mistakes: `outputs, targets -> (N,)`, 1 for each sample that is wrong, 0 for each right.

    Raises:
        DataError: there are no samples.
        ConfigError: a batch is no pair of tensors, or `mistakes` gives something else.

    >>> import torch
    >>> from tersor.tasks import build_model, load_task
    >>> _ = torch.manual_seed(0)
    >>> untrained = build_model("lenet-300-100", input_shape=(1, 8, 8))
    >>> evaluate(untrained, load_task("digits").test).percent > 80
    True
    """
    wrong = samples = 0
    with observing(model) as device:
        for batch in loader:
            if not _is_pair(batch):
                raise ConfigError(
                    f"evaluate: a batch is {type(batch).__name__}, "
                    "expected a pair of tensors (inputs, targets)"
                )
            inputs, targets = batch
            found = mistakes(model(inputs.to(device)), targets.to(device))
            if found.dim() == 0 or not ((found == 0) | (found == 1)).all():
                raise ConfigError(
                    "evaluate: mistakes gave a single number or values other than 0 and 1, "
                    "expected 1 for each sample that is wrong and 0 for each that is right"
                )
            wrong += int((found != 0).sum())
            samples += found.numel()
    if samples == 0:
        raise DataError("evaluate: the loader gives no samples, so there is no error to tell")
    return Error(wrong, samples)


def _is_pair(batch: object) -> bool:
    return (
        isinstance(batch, tuple | list)
        and len(batch) == 2
        and all(isinstance(part, Tensor) for part in batch)
    )

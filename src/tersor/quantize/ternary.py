"""Three values a weight: zero, and a scale with either sign."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean
from tersor.quantize.quantizer import rounded
from tersor.quantize.scales import as_rows, check_share, importances, mean_of, per_entry

METHODS = ("rule", "exact")


@dataclass(frozen=True)
class Ternary:
    """Three values: -scale, 0, +scale.

    w ~ scale * sign(w) where |w| > threshold, else 0; scale is the mean of |w| there.

    Args:
        granularity: what shares a scale and a threshold: "tensor" (the paper's) or "channel".
        method: "rule": threshold = 0.7 * mean |w|, close to the best one for both Gaussian (0.77)
            and uniform weights (2/3). "exact": the best threshold of all, by sorting.

    Raises:
        ConfigError: a setting is unknown.

    Source: Li, Zhang and Liu 2016, arXiv 1605.04711, eq. 6. "exact" with importance h minimises
    sum(h * (w - q)**2): Hou and Kwok 2018, arXiv 1802.08635, section 3.1, solved here by a sort
    instead of alternating steps. The rule takes its means with importance, too.

    >>> weight = torch.tensor([[1.0, -3.0, 0.25], [2.0, 0.125, -0.5]])
    >>> Ternary()(weight)
    tensor([[ 2., -2.,  0.],
            [ 2.,  0.,  0.]])
    """

    granularity: str = "tensor"
    method: str = "rule"
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self.granularity)
        if self.method not in METHODS:
            raise ConfigError(f"method {self.method!r}: {did_you_mean(self.method, METHODS)}")

    @property
    def bits(self) -> float:
        return math.log2(3)

    def fit(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> TernaryGrid:
        counts = as_rows(importances(weight, kept, importance), self.granularity)
        sizes = as_rows(weight.abs(), self.granularity)
        if self.method == "exact":
            scale = _best_scale(sizes, counts)
            threshold = scale / 2
        else:
            threshold = 0.7 * mean_of(sizes, counts)
            scale = mean_of(sizes, torch.where(sizes > threshold[:, None], counts, 0.0))
        return TernaryGrid(per_entry(scale, weight), per_entry(threshold, weight))

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return rounded(self.fit(weight, kept, importance), weight, kept)


@dataclass(frozen=True, eq=False)
class TernaryGrid:
    """The values -scale, 0 and +scale.

    Args:
        scale, threshold: not negative, broadcast to the weight; what is larger than the threshold
            is not zero.
    """

    scale: Tensor
    threshold: Tensor

    def round(self, values: Tensor) -> Tensor:
        """The value on the same side of the thresholds: the nearest one if they are scale / 2."""
        large = values.abs() > self.threshold
        return torch.where(large, values.sign() * self.scale, 0.0) + 0.0

    def bounds(self) -> tuple[Tensor, Tensor]:
        return -self.scale, self.scale


def _best_scale(sizes: Tensor, counts: Tensor) -> Tensor:
    """The scale that is best for each row, (rows, n) -> (rows,).

    With the k largest kept the error is const - (sum h |w|)**2 / sum h over them, and the best k
    gives the best of all grids: for a given scale, |w| > scale / 2 is best, which is such a set.
    """
    if sizes.shape[1] == 0:
        return sizes.new_zeros(len(sizes))
    ordered, order = sizes.sort(1, descending=True)
    weights = counts.gather(1, order)
    total = weights.cumsum(1)
    gains = (ordered.double() * weights).cumsum(1).square()
    gains = torch.where(total > 0, gains / total.clamp(min=1e-300), -1.0)
    best = gains.argmax(1, keepdim=True)
    places = torch.arange(sizes.shape[1], device=sizes.device)
    return mean_of(ordered, torch.where(places <= best, weights, 0.0))

"""Exact zeros while training: a proximal map after each optimizer step.

prox(w) = argmin over x of ||x - w||**2 / 2 + threshold * penalty(x), threshold = rate * strength
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.hooks import Attachment, require_owned, unwrap
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, survey
from tersor.prune.learned.finalizing import describe
from tersor.prune.learned.groups import Dims, Grouped, group_norms, group_size, grouped
from tersor.prune.learned.ramp import Ramp
from tersor.prune.patterns import Pattern

Prox = Callable[[Tensor, float, Dims], Tensor]
"""Weights, threshold and the dimensions that a group spans, to the new weights."""


def soft_threshold(weight: Tensor, threshold: float, dims: Dims = ()) -> Tensor:
    """sign(w) * max(0, |w| - threshold), of each weight: the prox of L1; `dims` have no say.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    return F.softshrink(weight, threshold) + 0.0  # its zeros may be -0.0


def hard_threshold(weight: Tensor, threshold: float, dims: Dims = ()) -> Tensor:
    """w where ||w_group||**2 > 2 * threshold * size, else 0: the prox of the number of weights.

    What is kept is not made smaller. Source: Blumensath and Davies 2008, Iterative thresholding
    for sparse approximations, in groups.

    >>> hard_threshold(torch.tensor([-3.0, 0.5, 2.0]), 0.5)
    tensor([-3.,  0.,  2.])
    """
    limit = math.sqrt(2 * threshold * group_size(weight.shape, dims))
    return torch.where(group_norms(weight, dims) > limit, weight, 0.0)


def group_soft_threshold(weight: Tensor, threshold: float, dims: Dims = ()) -> Tensor:
    """w * max(0, 1 - threshold * sqrt(size) / ||w_group||): the prox of the group lasso.

    Exactly the groups whose norm is at most threshold * sqrt(size) become zero.

    Source: Yuan and Lin 2006; Lebedev and Lempitsky 2016, arXiv 1506.02515, without sqrt(size).

    >>> group_soft_threshold(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 0.5 / 2**0.5, (1,))
    tensor([[2.7000, 3.6000],
            [0.0000, 0.0000]])
    """
    limit = threshold * math.sqrt(group_size(weight.shape, dims))
    norms = group_norms(weight, dims)
    return torch.where(norms > limit, weight * (1 - limit / norms), 0.0)


def shrink(weight: Tensor, threshold: float, dims: Dims = ()) -> Tensor:
    """w / (1 + threshold): the prox of the weight decay; it makes no zeros."""
    return weight / (1 + threshold)


PROX: dict[str, Prox] = {
    "l1": soft_threshold,
    "l0": hard_threshold,
    "group_lasso": group_soft_threshold,
    "weight_decay": shrink,
}
"""Name of a penalty to its proximal map."""


class Proximal:
    """Proximal gradient descent: a step of the optimizer, then the prox with its learning rate.

    The zeros are exact after every step, and a weight that is zero can come back. Several of them
    act one after the other (rows and channels: structured sparsity learning); that is the
    incremental proximal method, not the prox of the sum.

    Args:
        model: the model that the optimizer trains; changed in place.
        strength: lambda; the threshold is strength * learning rate of the weight's group.
        prox: a name of `PROX` or a function of their form.
        pattern: what a group is: "element", "row", "channel", "kernel", "layer", "4x1", or a
            function; weights that it does not fit are left alone.
        start, warm_up: optimizer steps until it begins, and then until it is whole.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Raises:
        ConfigError: an argument is out of range or unknown.

    Source: Parikh and Boyd 2014, Proximal algorithms, section 4.2; incremental: Bertsekas 2011.
        With momentum or Adam the step is no longer that of plain gradient descent; the map is the
        same (it is not the prox in Adam's own metric).

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.4, -0.02, 0.1]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    >>> proximal = Proximal(layer, 0.2)
    >>> with proximal.attach(optimizer):
    ...     optimizer.step()
    >>> layer.weight.data, proximal.masks.kept
    (tensor([[0.3000, 0.0000, 0.0000]]), 1)
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        prox: str | Prox = "l1",
        pattern: str | Pattern = "element",
        start: int = 0,
        warm_up: int = 0,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        self._model = model
        weights, skipped = survey(model, select=select, ignore=ignore)
        self._groups, unfit = grouped(weights, pattern)
        self._weights, self._skipped = [part.weight for part in self._groups], skipped | unfit
        self._prox = look_up("prox", prox, PROX)
        self._ramp = Ramp(strength, start, warm_up)
        self.step = 0

    @property
    def finished(self) -> bool:
        """Whether the strength is whole."""
        return self.step >= self._ramp.end

    @property
    def masks(self) -> MaskSet:
        """Which weights are not zero now: to hold them when training goes on without a penalty."""
        return MaskSet({w.name: w.parameter.detach() != 0 for w in self._weights})

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Apply the map after every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        rates = rates_of(optimizer, self._groups)
        return Attachment(optimizer, after=lambda: self._after_step(rates))

    def state_dict(self) -> dict[str, Any]:
        """The steps done; the zeros are in the weights."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; attached or not."""
        self.step = int(state["step"])

    def report(self) -> Report:
        """What is zero now."""
        return describe("Proximal training", self._weights, self.masks, self._skipped)

    @torch.no_grad()
    def _after_step(self, rates: list[Rate]) -> None:
        strength = self._ramp(self.step)
        self.step += 1
        if strength == 0:
            return
        for part, rate in zip(self._groups, rates, strict=True):
            values = part.view()
            values.copy_(self._prox(values, strength * rate(), part.dims))


Rate = Callable[[], float]


def rates_of(optimizer: Optimizer, groups: list[Grouped]) -> list[Rate]:
    """For each weight what tells its learning rate as it is now; 0 if it is not trained."""
    owners = {id(p): owner for owner in unwrap(optimizer).param_groups for p in owner["params"]}
    found = [owners.get(id(part.weight.parameter), {"lr": 0.0}) for part in groups]
    return [lambda owner=owner: float(owner["lr"]) for owner in found]  # type: ignore[misc]

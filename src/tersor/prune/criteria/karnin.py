"""Karnin's sensitivity: what the loss would rise by if a weight went back to zero on its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.weights import Selectors, Weight, prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Scores, ScoringData


class Karnin:
    """Sums up the loss that each weight's path through training gained; `scores` is a criterion.

    S = | -sum over the steps of dL/dw * (change of w) * w_f / (w_f - w_i) |

    w_i is the weight when this method was made and w_f the weight when it is asked. Any optimizer
    will do, as the change itself is looked at. Three tensors of each weight's size are held.

    A weight that came back to where it began (within a rounding error of float) is treated as one
    that moved by such an error; one that never had a gradient has the score 0.

    Args:
        model: the model that the optimizer trains; make a new one after each pruning.
        select, ignore: which weights are followed, as in `tersor.core.prunable`.

    Source: Karnin 1990, IEEE Transactions on Neural Networks 1(2), 239-242, eq. 8 and 9 (the form
    that holds for every optimizer). The paper integrates from w_i to w_f and scales by
    w_f / (w_f - w_i), taking the slope to be constant down to 0.
    """

    finished = True  # it changes no weight

    def __init__(
        self, model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
    ) -> None:
        self._weights = prunable(model, select=select, ignore=ignore)
        self._initial = {w.name: precise(w.parameter.detach()).clone() for w in self._weights}
        self._sums = {name: torch.zeros_like(t) for name, t in self._initial.items()}
        self._before: dict[str, Tensor] = {}
        self.step = 0

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Look at weights and gradients around each step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        return Attachment(optimizer, before=self._before_step, after=self._after_step)

    def scores(self, model: nn.Module, data: ScoringData) -> Scores:
        """The sensitivities so far, a criterion; data is not looked at.

        Raises:
            ConfigError: no step has been made.
        """
        if self.step == 0:
            raise ConfigError(
                "criterion Karnin: no step has been made; train with it attached first"
            )
        return {w.name: self._sensitivity(w) for w in self._weights}

    def state_dict(self) -> dict[str, Any]:
        """The steps, the first values and the sums."""
        return {
            "step": self.step,
            "initial": {n: t.clone() for n, t in self._initial.items()},
            "sums": {n: t.clone() for n, t in self._sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self.step = int(state["step"])
        for name in self._sums:
            self._initial[name].copy_(state["initial"][name])
            self._sums[name].copy_(state["sums"][name])

    def _before_step(self) -> None:
        self._before = {w.name: precise(w.parameter.detach()).clone() for w in self._weights}

    def _after_step(self) -> None:
        self.step += 1
        for weight in self._weights:
            if weight.parameter.grad is not None:
                change = precise(weight.parameter.detach()) - self._before[weight.name]
                # The model may have moved to another device since.
                total = self._sums[weight.name].to(change.device)
                self._sums[weight.name] = total.addcmul_(change, weight.parameter.grad)
        self._before = {}

    def _sensitivity(self, weight: Weight) -> Tensor:
        last = precise(weight.parameter.detach())
        moved = (last - self._initial[weight.name].to(last.device)).abs()
        least = last.abs() * torch.finfo(last.dtype).eps
        ratio = last.abs() / torch.maximum(moved, least)
        gained = self._sums[weight.name].to(last.device).abs() * ratio
        return torch.where(last == 0, 0.0, gained)

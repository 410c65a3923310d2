"""Movement: a weight matters if the loss drives it away from zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.weights import Selectors, prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Scores, ScoringData, mean_gradients


def movement(model: nn.Module, data: ScoringData) -> Scores:
    """One step's movement -w * dL/dw, signed: above 0, descent makes |w| larger.

    L is the mean loss over all samples of all batches. `Movement` sums it up over a training.

    Source: Sanh, Wolf and Rush 2020, arXiv 2005.07683, eq. 4, for one step.
    """
    weights = prunable(model)
    gradients = mean_gradients(model, weights, data, "movement")
    return {w.name: (precise(w.parameter.detach()) * gradients.pop(0)).neg_() for w in weights}


class Movement:
    """Sums up the movement over a training, as a method; its `scores` is a criterion.

    S = -sum over the steps of w * dL/dw, both as they are before the step. One tensor of each
    weight's size is held.

    Args:
        model: the model that the optimizer trains.
        select, ignore: which weights are followed, as in `tersor.core.prunable`.

    Source: Sanh, Wolf and Rush 2020, arXiv 2005.07683, eq. 4, without the factor of the learning
    rate. There the weights are masked while the scores are learned and the gradient goes straight
    through the mask; here the network trains as it is, and is pruned by the scores afterwards.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> moved = Movement(model)
    >>> with moved.attach(optimizer):
    ...     model(torch.tensor([[-1.0, 1.0]])).sum().backward()
    ...     optimizer.step()
    >>> moved.scores(model, ScoringData())["weight"].tolist()  # the first grew, the second shrank
    [[1.0, -1.0]]
    """

    finished = True  # it changes no weight

    def __init__(
        self, model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
    ) -> None:
        self._weights = prunable(model, select=select, ignore=ignore)
        self._sums = {
            w.name: torch.zeros_like(precise(w.parameter.detach())) for w in self._weights
        }
        self.step = 0

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Look at weights and gradients before each step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        return Attachment(optimizer, before=self._before_step)

    def scores(self, model: nn.Module, data: ScoringData) -> Scores:
        """The sums so far, a criterion; data is not looked at.

        Raises:
            ConfigError: no step has been made.
        """
        if self.step == 0:
            raise ConfigError(
                "criterion Movement: no step has been made; train with it attached first"
            )
        return {name: total.clone() for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """The steps and the sums."""
        return {"step": self.step, "sums": {n: s.clone() for n, s in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self.step = int(state["step"])
        for name, total in self._sums.items():
            total.copy_(state["sums"][name])

    def _before_step(self) -> None:
        self.step += 1
        for weight in self._weights:
            if weight.parameter.grad is not None:
                total = self._total(weight.name, weight.parameter)
                total.addcmul_(weight.parameter.detach(), weight.parameter.grad, value=-1)

    def _total(self, name: str, beside: Tensor) -> Tensor:
        # The model may have moved to another device since.
        self._sums[name] = self._sums[name].to(beside.device)
        return self._sums[name]

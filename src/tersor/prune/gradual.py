"""Prune while training: a method that attaches to any optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation
from tersor.prune.patterns import Pattern
from tersor.prune.ranking import Densities, Ranking
from tersor.prune.schedules import SCHEDULES, Schedule
from tersor.prune.scoring import Criterion, Data, as_scoring_data
from tersor.prune.transform import Density, describe, resolve


class GradualPruner:
    """Lower the density step by step; what is pruned once stays pruned.

    At the optimizer steps `start`, `start + every`, ... and `end` the remaining weights are
    scored again and the least important of them go. After every step all pruned weights are set
    back to zero, so no momentum, moment or weight decay can move them.

    Args:
        model: the model that the optimizer trains; changed in place.
        density: the final one, as in `prune_`.
        schedule: a name of `SCHEDULES` or a function of their form.
        start, end: the window, in optimizer steps since the first `attach`.
        every: optimizer steps between two prunings.
        criterion, pattern, allocation, data, select, ignore: as in `prune_`. With "N:M" the pattern
            holds from the first pruning on.

    Raises:
        ConfigError: an argument is out of range or unknown.

    Source: Zhu and Gupta 2017, arXiv 1710.01878, section 3.

    >>> import torch
    >>> model = nn.Linear(10, 10)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> pruner = GradualPruner(model, 0.1, end=4)
    >>> with pruner.attach(optimizer):
    ...     for _ in range(5):
    ...         model(torch.ones(1, 10)).sum().backward()
    ...         optimizer.step()
    >>> pruner.finished, int((model.weight != 0).sum())
    (True, 10)
    """

    def __init__(
        self,
        model: nn.Module,
        density: Density = None,
        *,
        end: int,
        start: int = 0,
        every: int = 1,
        schedule: str | Schedule = "cubic",
        criterion: str | Criterion = "magnitude",
        pattern: str | Pattern = "element",
        allocation: str | Allocation = "global",
        data: Data = None,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every: {every}; expected at least 1 optimizer step")
        if start < 0:
            raise ConfigError(f"start: {start}; expected 0 or more optimizer steps")
        units, weights, self._densities, self._skipped = resolve(
            model, density, pattern=pattern, select=select, ignore=ignore
        )
        self._model, self._weights = model, weights
        self._start, self._end, self._every = start, end, every
        # A reversed window or an unknown name is an error now, not at the first step.
        self._schedule = look_up("schedule", schedule, SCHEDULES)
        self._ranking = Ranking.named(units, criterion, allocation, as_scoring_data(data))
        self._at(0)
        self.step = 0
        self.masks = MaskSet.full(weights)
        self._hold = self.masks.holder(model)

    @property
    def finished(self) -> bool:
        """Whether the final density has been reached."""
        return self.step >= self._end

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Prune and hold through every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        self._hold = self.masks.holder(self._model)  # the model may have moved since
        if self.step == 0:
            self._prune_if_due()
        self._hold()
        return Attachment(optimizer, after=self._after_step)

    def state_dict(self) -> dict[str, Any]:
        """The steps done and the masks."""
        return {"step": self.step, "masks": self.masks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; attached or not."""
        self.step = int(state["step"])
        self.masks.load_state_dict(state["masks"])
        self._hold = self.masks.holder(self._model)

    def report(self) -> Report:
        """What has been pruned so far, against what was asked for the end."""
        return describe(self._weights, self.masks, self._skipped, self._densities)

    def _after_step(self) -> None:
        self.step += 1
        self._prune_if_due()
        self._hold()

    def _prune_if_due(self) -> None:
        since = self.step - self._start
        if self._start <= self.step <= self._end and (
            since % self._every == 0 or self.step == self._end
        ):
            self._prune()

    def _prune(self) -> None:
        self.masks = self._ranking.masks(self._model, self.masks, self._at(self.step))
        self._hold = self.masks.holder(self._model)

    def _at(self, step: int) -> Densities:
        """The density, or the one of each weight, that the schedule gives for a step."""
        window = {"start": self._start, "end": self._end}
        if isinstance(self._densities, dict):
            return {n: self._schedule(step, final=d, **window) for n, d in self._densities.items()}
        return self._schedule(step, final=self._densities, **window)

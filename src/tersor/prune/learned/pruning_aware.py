"""Pruning-aware training: the network is seen through a proximal map, the weights behind it live.

w_hidden <- optimizer step at the gradient of w;  w = prox(w_hidden, strength * sum of the rates)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, survey
from tersor.prune.learned.finalizing import describe
from tersor.prune.learned.groups import grouped
from tersor.prune.learned.proximal import PROX, Prox, Rate, rates_of
from tersor.prune.patterns import Pattern


class PruningAware:
    """Train hidden dense weights, use them pruned; then freeze the zeros and heal.

    1. `start` steps of plain training.
    2. From then on the optimizer moves hidden weights, and the model has their proximal map.
       The threshold is strength * (sum of the learning rates since `start`): it grows, so more
       and more becomes zero, while a hidden weight that grows faster than it comes back.
    3. From step `heal` on the zeros are frozen, and what is left trains without any pressure.

    Args:
        model: the model that the optimizer trains; changed in place.
        strength: lambda.
        heal: optimizer steps after which the zeros are frozen, more than `start`.
        start: optimizer steps of plain training.
        prox: a name of `PROX` or a function of their form.
        pattern: what a group is, as in `Proximal`.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Raises:
        ConfigError: an argument is out of range or unknown.

    Source: PAT of torchao (prototype, 2026: `PruneOptimizer`), whose steps these are: gamma is
        the sum of the rates, as in Xiao 2010, Dual averaging, and the thresholds have the
        sqrt(size of the group). There it wraps the optimizer; here it is attached to it.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.4, -0.02, 0.15]]))  # none moves: no gradient
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    >>> method = PruningAware(layer, 0.2, heal=2)
    >>> with method.attach(optimizer):
    ...     optimizer.step()
    ...     print([round(w, 2) for w in layer.weight[0].tolist()])
    ...     optimizer.step()
    [0.3, 0.0, 0.05]
    >>> [round(w, 2) for w in layer.weight[0].tolist()], method.finished
    ([0.2, 0.0, 0.0], True)
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        heal: int,
        start: int = 0,
        prox: str | Prox = "group_lasso",
        pattern: str | Pattern = "element",
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        if not strength >= 0:
            raise ConfigError(f"strength: {strength}; expected 0 or more")
        if not 0 <= start < heal:
            raise ConfigError(f"start {start}, heal {heal}; expected 0 <= start < heal, in steps")
        self._model, self._strength, self._start, self._heal = model, strength, start, heal
        weights, skipped = survey(model, select=select, ignore=ignore)
        self._groups, unfit = grouped(weights, pattern)
        self._weights, self._skipped = [part.weight for part in self._groups], skipped | unfit
        self._prox = look_up("prox", prox, PROX)
        self.step = 0
        self._rates = [0.0] * len(self._weights)  # summed since `start`
        self._hidden: dict[str, Tensor] = {}
        self._frozen: MaskSet | None = None

    @property
    def finished(self) -> bool:
        """Whether the zeros are frozen."""
        return self.step >= self._heal

    @property
    def masks(self) -> MaskSet:
        """Which weights are not zero now; the final ones once it is finished."""
        return MaskSet({w.name: w.parameter.detach() != 0 for w in self._weights})

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Accompany every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        rates = rates_of(optimizer, self._groups)
        return Attachment(optimizer, before=self._reveal, after=lambda: self._after_step(rates))

    def state_dict(self) -> dict[str, Any]:
        """The steps done, the summed rates, the hidden weights or the frozen zeros."""
        return {
            "step": self.step,
            "rates": list(self._rates),
            "hidden": {name: hidden.cpu().clone() for name, hidden in self._hidden.items()},
            "frozen": None if self._frozen is None else self._frozen.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; attached or not."""
        self.step, self._rates = int(state["step"]), list(state["rates"])
        devices = {w.name: w.parameter.device for w in self._weights}
        self._hidden = {n: hidden.to(devices[n]) for n, hidden in state["hidden"].items()}
        self._frozen = None if state["frozen"] is None else MaskSet(state["frozen"])

    def report(self) -> Report:
        """What is zero now."""
        return describe("Pruning-aware training", self._weights, self.masks, self._skipped)

    @torch.no_grad()
    def _reveal(self) -> None:
        """Before the step: the optimizer is to move the hidden weights."""
        for weight in self._weights:
            if weight.name in self._hidden:
                weight.parameter.copy_(self._hidden[weight.name])

    @torch.no_grad()
    def _after_step(self, rates: list[Rate]) -> None:
        self.step += 1
        if self._frozen is not None:
            self._frozen.apply(self._model)
        elif self.step > self._start:
            for index, (part, rate) in enumerate(zip(self._groups, rates, strict=True)):
                self._rates[index] += rate()
                values = part.view()
                self._hidden[part.weight.name] = part.weight.parameter.clone()
                values.copy_(self._prox(values, self._strength * self._rates[index], part.dims))
            if self.finished:
                self._frozen, self._hidden = self.masks, {}

"""A penalty beside any training loop: its gradient is added before each optimizer step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment
from tersor.prune.learned.penalties import Penalty
from tersor.prune.learned.ramp import Ramp


class Penalized:
    """Train on `loss + strength * penalty(model)` without touching the loop.

    The gradient is added to `.grad` just before the step: after all clipping, and also where the
    loss is scaled for mixed precision. The loss that the loop reports is without it.

    Args:
        model: the model that the optimizer trains.
        penalty: `model -> scalar`: one of `PENALTIES`, `expected_l0`, a divergence, your own.
        strength: what stands before it. For a divergence 1 / training samples, as the loss is a
            mean over samples.
        start, warm_up: optimizer steps until it begins, and then until it is whole.

    Raises:
        ConfigError: the strength, start or warm-up is negative; the penalty is no scalar.

    >>> from tersor.prune.learned import l1
    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.ones_(layer.weight)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    >>> with Penalized(layer, l1, 0.25).attach(optimizer):
    ...     optimizer.step()
    >>> layer.weight.tolist()
    [[0.75, 0.75]]
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty,
        strength: float,
        *,
        start: int = 0,
        warm_up: int = 0,
    ) -> None:
        self._model, self._penalty = model, penalty
        self._ramp = Ramp(strength, start, warm_up)
        self.step = 0
        self._value()

    finished = True  # it gives the weights no structure of its own, so any epoch may be kept

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Add the gradient before every step of this optimizer, until detached."""
        return Attachment(optimizer, before=self._add, after=self._count)

    def state_dict(self) -> dict[str, Any]:
        """The steps done."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self.step = int(state["step"])

    def _add(self) -> None:
        strength = self._ramp(self.step)
        if strength == 0:
            return
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        with torch.enable_grad():
            value = strength * self._value()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def _count(self) -> None:
        self.step += 1

    def _value(self) -> torch.Tensor:
        value = self._penalty(self._model)
        if value.dim() != 0:
            raise ConfigError(f"penalty: shape {tuple(value.shape)}; expected a scalar")
        return value

"""What becomes of pruned weights: zero, their initial value, or one of the two (mask actions)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet

Action = Callable[[Tensor, Tensor], Tensor]
"""Initial and trained values of a weight to the value that it has once it is pruned."""


def zero(initial: Tensor, trained: Tensor) -> Tensor:
    """Zero, as everywhere else."""
    return torch.zeros_like(initial)


def initial(initial: Tensor, trained: Tensor) -> Tensor:
    """The initial value: the weight is frozen, not removed."""
    return initial.clone()


def toward_zero(initial: Tensor, trained: Tensor) -> Tensor:
    """Zero where training moved the weight towards zero, else its initial value.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067 (their mask-0 actions).

    >>> toward_zero(torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.9]))
    tensor([0.0000, 0.5000])
    """
    return torch.where(trained.abs() < initial.abs(), 0.0, initial)


PRUNED: dict[str, Action] = {"zero": zero, "initial": initial, "toward-zero": toward_zero}
"""Name to action."""


class Frozen:
    """A method that holds pruned weights at given values while the others are trained.

    Args:
        model: the model that is trained.
        masks: `True` = trained.
        values: name to a tensor of the weight's shape; only what the mask prunes is looked at.

    Raises:
        ConfigError: the model lacks a weight, or its shape is another one.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> masks = MaskSet({"weight": torch.tensor([[True, False]])})
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    >>> with Frozen(model, masks, {"weight": torch.tensor([[9.0, 3.0]])}).attach(optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> model.weight[0, 1].item()
    3.0
    """

    finished = True  # the structure is there from the first step on

    def __init__(self, model: nn.Module, masks: MaskSet, values: Mapping[str, Tensor]) -> None:
        masks.holder(model)
        self._model, self._masks = model, masks
        self._values = {name: values[name] for name in masks}

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Put the values in now and after each step, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        weights = {name: self._model.get_parameter(name) for name in self._masks}
        require_owned(optimizer, weights.items())

        def hold() -> None:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(torch.where(self._masks[name], weight, self._values[name]))

        hold()
        return Attachment(optimizer, after=hold)

    def state_dict(self) -> dict[str, Any]:
        """The masks and the values."""
        return {"masks": self._masks.state_dict(), "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace both; before `attach`, as what is attached stays."""
        self._masks.load_state_dict(state["masks"])
        self._values = dict(state["values"])

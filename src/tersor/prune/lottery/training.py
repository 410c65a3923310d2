"""What a search needs of training, and one training with its log of the validation loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tersor.core.hooks import Method
from tersor.prune.lottery.record import Log, early_stop_step

Validate = Callable[[nn.Module], float]
"""A model to its loss on the validation set."""

Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""A model to what is to be reported of it by name, for instance the error on the test set."""


class Trainer(Protocol):
    """A model and the step its training is at; `tersor.train.Stepper` is one.

    The data and the learning rate of a step follow from the step's number, so that a training that
    goes back to step k and on to T sees what it saw the first time.
    """

    model: nn.Module
    step: int

    def run(
        self,
        until: int,
        *,
        methods: Sequence[Method] = (),
        every: int | None = None,
        watch: Callable[[int], None] | None = None,
    ) -> object:
        """Train to step `until` with these methods attached.

        `watch(step)` is called whenever the step is a multiple of `every`, and at `until`; it may
        look at the model, and the training goes on as if it had not.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The step, the model's `state_dict()` as "model", and the optimizer; all of it copied."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a `state_dict()` was taken."""
        ...


def train_and_watch(
    trainer: Trainer,
    until: int,
    *,
    methods: Sequence[Method],
    every: int,
    validate: Validate,
    evaluate: Evaluate,
) -> tuple[Log, dict[str, float], dict[str, float]]:
    """Train to the end and tell how good the model was at the early-stop step and at the end.

    The validation loss is only looked at: it neither stops the training nor chooses what is kept.
    Of the step where it was least so far a copy is held, so that it can be evaluated afterwards.

    Returns:
        The log; what `evaluate` says at the early-stop step; what it says at the end.
    """
    log: Log = []
    best: dict[str, Tensor] = {}

    def watch(step: int) -> None:
        log.append((step, float(validate(trainer.model))))
        if early_stop_step(log) == step:
            best.update(copied(trainer.model))

    trainer.run(until, methods=methods, every=every, watch=watch)
    at_end = dict(evaluate(trainer.model))
    last = copied(trainer.model)
    trainer.model.load_state_dict(best)
    at_early_stop = dict(evaluate(trainer.model))
    trainer.model.load_state_dict(last)
    return log, at_early_stop, at_end


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, buffers included, as tensors of their own."""
    with torch.no_grad():
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

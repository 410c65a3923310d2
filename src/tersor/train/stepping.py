"""Training counted in steps: from any step to any other, with the data order of a seed.

`fit` counts epochs, keeps the best and writes checkpoints; this loop has no more than the
experiments on pruning need: to stop at step k, to go back there, and to go on with the same or
with another order of the data.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError, TrainingError
from tersor.core.hooks import Method
from tersor.core.seeding import seed_everything
from tersor.tasks import Task
from tersor.train.fit import steps_per_epoch


class Stepper:
    """A model, its optimizer and the step they are at; `run(until)` trains on from there.

    Step t sees batch `t % steps per epoch` of epoch `t // steps per epoch`, whose order `seed` and
    the epoch's number alone decide; what is drawn while a batch and a step are made (augmentation,
    dropout) `seed` and t decide. So training from a saved step k to T gives the bits of a training
    that was never stopped (on one device, with one number of threads).

    Args:
        model: trained in place, on its own device.
        task: `task.train` and `task.loss` are used.
        optimizer: over the model's parameters.
        seed: the order of the data, and all else that is random in a step.
        rate: step to a factor on the learning rates that the optimizer had when it was given.

    >>> from tersor.tasks import build_model, load_task
    >>> task, _ = load_task("digits"), torch.manual_seed(0)
    >>> model = build_model("lenet-300-100", input_shape=(1, 8, 8))
    >>> stepper = Stepper(model, task, torch.optim.SGD(model.parameters(), 0.1))
    >>> losses = stepper.run(60)
    >>> stepper.step, losses[0] > 2 > losses[-1]
    (60, True)
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: Optimizer,
        *,
        seed: int = 0,
        rate: Callable[[int], float] | None = None,
    ) -> None:
        self.model, self.task, self.optimizer, self.seed = model, task, optimizer, seed
        self.step = 0
        self._rate = rate
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        self._per_epoch = steps_per_epoch(task)
        if self._per_epoch == 0:
            raise ConfigError(f"task {task.name!r}: there are no training batches")

    def run(
        self,
        until: int,
        *,
        methods: Sequence[Method] = (),
        every: int | None = None,
        watch: Callable[[int], None] | None = None,
    ) -> list[float]:
        """Train to step `until`; the loss of each step is given.

        Args:
            until: optimizer steps since step 0; nothing is done if that many are made.
            methods: attached to the optimizer for these steps.
            every, watch: `watch(step)` is called whenever the step is a multiple of `every`, and
                at `until`. It may look at the model, in whatever mode; the training goes on as if
                it had not.

        Raises:
            TrainingError: a loss is not finite; that step was not made.
        """
        losses: list[float] = []
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with contextlib.ExitStack() as stack:
            for method in methods:
                stack.enter_context(method.attach(self.optimizer))
            batches: Iterator[tuple[Tensor, Tensor]] = iter(())
            while self.step < until:
                if not losses or self.step % self._per_epoch == 0:
                    batches = self._batches()
                if self.step % self._per_epoch:  # at the start of an epoch its seed decides
                    seed_everything(self.seed, "step", self.step)
                inputs, targets = next(batches)
                self._set_rates()
                self.model.train()
                losses.append(self._one(inputs.to(device), targets.to(device)))
                self.step += 1
                if watch and (self.step == until or (every and self.step % every == 0)):
                    watch(self.step)
        return losses

    def state_dict(self) -> dict[str, Any]:
        """The step, the model and the optimizer: all that `run` goes on from."""
        return {
            "step": self.step,
            "model": {n: t.detach().clone() for n, t in self.model.state_dict().items()},
            "optimizer": _cloned(self.optimizer.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back, or on, to where a `state_dict()` was taken."""
        self.step = int(state["step"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(_cloned(state["optimizer"]))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the current epoch that are not done yet."""
        epoch, done = divmod(self.step, self._per_epoch)
        seed_everything(self.seed, "epoch", epoch)
        batches = iter(self.task.train)
        for _ in range(done):
            next(batches)
        return batches

    def _set_rates(self) -> None:
        if self._rate is not None:
            factor = self._rate(self.step)
            for group, initial in zip(
                self.optimizer.param_groups, self._learning_rates, strict=True
            ):
                group["lr"] = initial * factor

    def _one(self, inputs: Tensor, targets: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model(inputs), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {self.step + 1}")
        loss.backward()
        self.optimizer.step()
        return value


def _cloned(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _cloned(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_cloned(value) for value in state)
    return state

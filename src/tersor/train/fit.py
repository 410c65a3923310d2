"""The training loop: any device, several processes, methods attached, exact resume.

The order of the batches and everything random in an epoch depend on `seed` and the epoch's number
alone, so a run that is killed and resumed ends with the same bits as one that is not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.errors import ConfigError, FormatError, TrainingError
from tersor.core.hooks import Method
from tersor.core.report import Report
from tersor.core.seeding import derive, rng_state, seed_everything, set_rng_state
from tersor.measure import Error, evaluate
from tersor.tasks import Task
from tersor.train.accelerating import accelerating
from tersor.train.interrupt import Interrupt, deferred_interrupt
from tersor.train.processes import processes, share_of
from tersor.train.progress import Display, display
from tersor.train.runlog import RunLog
from tersor.train.settings import Training, make_optimizer, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(
    model: nn.Module,
    task: Task,
    training: Training,
    *,
    methods: Sequence[Method] = (),
    seed: int = 0,
    label: str = "train",
    checkpoint: Path | None = None,
    log: RunLog | None = None,
    verbose: bool = True,
) -> Report:
    """Train a model in place; with `keep="best"` it ends with its best epoch on validation.

    Under `accelerate launch` every process calls this; the gradients are averaged, and the
    checkpoint and the log are written by one of them.

    Args:
        model: moved to the device that Accelerate chooses, and left there.
        task: batches of `task.train` are gone through; `task.test` is not touched.
        training: epochs, optimizer, learning rate and so on.
        methods: attached to the optimizer for the whole time. While one of them is not
            `finished`, an epoch cannot be kept as the best.
        seed: decides the order of the batches and everything random in the loop.
        label: what progress lines and the log call this training.
        checkpoint: a file for the state. If it is there, training goes on from it. At SIGINT or
            SIGTERM the step is finished, the state is written and KeyboardInterrupt raised.
        log: gets one event per epoch.
        verbose: show a bar (on a terminal) or a line per epoch (elsewhere), on stderr.

    Returns:
        A report with the validation error of the weights that were kept; one row per epoch.

    Raises:
        TrainingError: the loss is NaN or infinite; the weights are those before that step.
        ConfigError: a method and the model do not fit, no epoch could be kept, or the machine
            cannot compute in this precision.
        FormatError: the checkpoint is damaged, or of another model.
        MissingExtraError: the extra `train` is not installed.
    """
    with accelerating(model, training.precision) as accelerator, contextlib.ExitStack() as stack:
        run = _Run(accelerator, model, task, training, methods, seed, label, checkpoint, log)
        shown = stack.enter_context(
            display(label, training.epochs, shown=verbose and accelerator.is_main_process)
        )
        # Without a place to keep the state there is nothing to wait for.
        interrupt = stack.enter_context(deferred_interrupt()) if checkpoint else Interrupt()
        for method in methods:
            stack.enter_context(method.attach(run.optimizer))
        run.go(shown, interrupt)
        return run.finish()


def steps_per_epoch(task: Task) -> int:
    """Optimizer steps of one epoch: batches of `task.train`, shared among all processes.

    Raises:
        ConfigError: the training batches have no length.
        MissingExtraError: the extra `train` is not installed.
    """
    count = int(processes().num_processes)
    try:
        batches = len(task.train)  # type: ignore[arg-type]  # any iterable; checked just here
    except TypeError:
        raise ConfigError(
            f"task {task.name!r}: the training batches have no length, so no schedule can be "
            "laid over them. Give a DataLoader of a map-style data set, or a list"
        ) from None
    return math.ceil(batches / count)


class _Run:
    """The state of one training, all that a checkpoint holds."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        task: Task,
        training: Training,
        methods: Sequence[Method],
        seed: int,
        label: str,
        checkpoint: Path | None,
        log: RunLog | None,
    ) -> None:
        self.accelerator, self.model, self.task, self.training = accelerator, model, task, training
        self.methods, self.seed, self.label, self.path = methods, seed, label, checkpoint
        self.log = log if log is not None and accelerator.is_main_process else RunLog(None)
        self.steps_per_epoch = steps_per_epoch(task)
        if self.steps_per_epoch == 0:
            raise ConfigError(f"task {task.name!r}: there are no training batches")
        model.to(accelerator.device)
        optimizer = make_optimizer(model, training)
        self.schedule = make_schedule(optimizer, training, training.epochs * self.steps_per_epoch)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        is_loader = isinstance(task.train, torch.utils.data.DataLoader)
        self.batches = accelerator.prepare(task.train) if is_loader else share_of(task.train)
        self.epoch = 0  # whole epochs done
        self.batch = 0  # batches of the next epoch done
        self.step = 0  # optimizer steps done
        self.loss_sum = 0.0  # of the batches of this epoch
        self.before_batch: dict[str, Any] = {}  # the generators before the last batch was drawn
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # the states of the model and of the methods
        self.best_error: Error | None = None
        self.best_epoch = 0  # the last one with this error
        self.better_epoch = 0  # the first one

    def go(self, shown: Display, interrupt: Interrupt) -> None:
        """Train from where the checkpoint ends, else from the beginning."""
        state = None
        if self.path is not None and self.path.exists():
            state = self._resume(self.path)
        elif self.training.keep == "best" and all(method.finished for method in self.methods):
            self._remember(self._validate(), epoch=0)  # training may make it worse
        while self.epoch < self.training.epochs and not self._out_of_patience():
            self._one_epoch(shown, interrupt, state)
            state = None

    def finish(self) -> Report:
        """Put the kept weights into the model and say how good they are."""
        if self.training.keep == "best":
            if self.best is None or self.best_error is None:
                raise ConfigError(
                    f"{self.label}: no epoch could be kept, as a method was not finished in "
                    f"{self.training.epochs} epochs. Let it end sooner, or train longer"
                )
            self.model.load_state_dict(self.best["model"])
            for method, state in zip(self.methods, self.best["methods"], strict=True):
                method.load_state_dict(state)
            error, epoch = self.best_error, self.best_epoch
        else:
            error, epoch = self._validate(), self.epoch
        summary = {
            "epochs": self.epoch,
            "optimizer steps": self.step,
            "epoch kept": epoch,
            "validation error %": error.percent,
            "validation samples": error.samples,
        }
        return Report(f"Training: {self.label}", summary, self.rows)

    def _one_epoch(
        self, shown: Display, interrupt: Interrupt, resumed: dict[str, Any] | None
    ) -> None:
        began = time.perf_counter()
        seed_everything(self.seed, self.label, "epoch", self.epoch)
        _reseed_sampler(self.batches, derive(self.seed, self.label, "order", self.epoch))
        shown.start_epoch(self.epoch + 1, self.steps_per_epoch, self.batch)
        batches = iter(self.batches)
        if resumed is not None and self.batch > 0:  # at the start of an epoch the seed decides
            self._skip(batches, resumed)
        self.wrapped.train()
        while True:
            if self.path is not None:
                self.before_batch = rng_state()
            batch = next(batches, None)
            if batch is None:
                break
            self._one_step(*batch)
            shown.step()
            every = self.training.checkpoint_steps
            if interrupt.wanted or (every is not None and self.step % every == 0):
                self._save()
            if interrupt.wanted:
                raise KeyboardInterrupt
        error = self._validate()
        numbers = {
            "loss": self.loss_sum / self.batch,
            "validation_error": error.percent,
            "seconds": round(time.perf_counter() - began, 2),
        }
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0
        shown.end_epoch(self.epoch, **numbers)
        self.log.write(event="epoch", label=self.label, epoch=self.epoch, step=self.step, **numbers)
        self.rows.append({"epoch": self.epoch} | numbers)
        settled = all(method.finished for method in self.methods)
        if settled and (self.best_error is None or error.mistakes <= self.best_error.mistakes):
            self._remember(error, self.epoch)
        self._save()
        if interrupt.wanted:  # in the validation, or in the last step of all
            raise KeyboardInterrupt

    def _skip(self, batches: Iterator[Any], rng: dict[str, Any]) -> None:
        """Go over what was done before the interrupt, and leave the generators as they were."""
        for _ in range(self.batch - 1):
            next(batches, None)
        # Accelerate's loader is one batch ahead: the next one is drawn here, as it was drawn then.
        set_rng_state(rng["before_batch"])
        next(batches, None)
        set_rng_state(rng["after_step"])

    def _one_step(self, inputs: Tensor, targets: Tensor) -> None:
        device = self.accelerator.device
        outputs = self.wrapped(inputs.to(device))
        loss = self.task.loss(outputs, targets.to(device))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.label}: the loss is {value} at step {self.step + 1} (epoch "
                f"{self.epoch + 1}), and this step was not made. Lower the learning rate "
                f"({self.training.learning_rate:g}), or look for bad values in the data"
            )
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step, self.batch, self.loss_sum = self.step + 1, self.batch + 1, self.loss_sum + value

    def _validate(self) -> Error:
        # Every process looks at the whole set, so all of them come to the same decisions.
        return evaluate(self.model, self.task.validation, mistakes=self.task.mistakes)

    def _remember(self, error: Error, epoch: int) -> None:
        if self.best_error is None or error.mistakes < self.best_error.mistakes:
            self.better_epoch = epoch
        self.best_error, self.best_epoch = error, epoch
        if self.training.keep == "best":
            self.best = {
                "model": {n: t.detach().clone() for n, t in self.model.state_dict().items()},
                "methods": [method.state_dict() for method in self.methods],
            }

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return (
            patience is not None
            and self.best_error is not None
            and self.epoch - self.better_epoch >= patience
        )

    def _save(self) -> None:
        if self.path is None or not self.accelerator.is_main_process:
            return
        best = self.best_error
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "methods": [method.state_dict() for method in self.methods],
            "counters": (self.epoch, self.batch, self.step, self.loss_sum),
            "rows": self.rows,
            "best": self.best,
            "best_error": (best.mistakes, best.samples) if best else None,
            "best_epochs": (self.best_epoch, self.better_epoch),
            "rng": {"before_batch": self.before_batch, "after_step": rng_state()},
        }
        save_checkpoint(self.path, state)

    def _resume(self, path: Path) -> dict[str, Any]:
        """Take over the state of a checkpoint; the generators' state is returned."""
        state = load_checkpoint(path)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if self.accelerator.scaler and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            for method, method_state in zip(self.methods, state["methods"], strict=True):
                method.load_state_dict(method_state)
            self.epoch, self.batch, self.step, self.loss_sum = state["counters"]
            self.rows, self.best = state["rows"], state["best"]
            if state["best_error"] is not None:
                self.best_error = Error(*state["best_error"])
            self.best_epoch, self.better_epoch = state["best_epochs"]
            rng: dict[str, Any] = state["rng"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise FormatError(f"{path}: a checkpoint of another training ({error})") from error
        self.log.write(event="resumed", label=self.label, epoch=self.epoch, step=self.step)
        return rng


def _reseed_sampler(batches: object, seed: int) -> None:
    """Give a sampler with a generator of its own (several processes: Accelerate's) this order."""
    if not isinstance(batches, torch.utils.data.DataLoader):
        return
    from accelerate.data_loader import get_sampler

    own = getattr(get_sampler(batches), "generator", None)
    if isinstance(own, torch.Generator):
        own.manual_seed(seed)

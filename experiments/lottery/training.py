"""How the experiments train and measure: one place for data, start, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.seeding import generator
from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.tasks import Task, load_task
from tersor.tasks.batches import InMemory, evaluation_loader, training_loader
from tersor.tasks.mnist import MNIST
from tersor.train import Stepper


def unit_norm_mnist(data_dir: str | None, batch_size: int = 60) -> Task:
    """MNIST, each image divided by its own length, as the authors' code has it.

    Source: `keras.utils.normalize` in github.com/google-research/lottery-ticket-hypothesis,
    datasets/dataset_mnist.py.
    """
    task = load_task("mnist", data_dir=data_dir, batch_size=batch_size)

    def data(part: object) -> tuple[Tensor, Tensor]:
        held = part.dataset  # type: ignore[attr-defined]
        assert isinstance(held, InMemory)
        pixels = held.inputs.mul(MNIST.std).add_(MNIST.mean)  # back to 0 to 1
        return F.normalize(pixels.flatten(1)).view_as(pixels), held.targets

    return Task(
        "mnist, unit norm",
        training_loader(*data(task.train), batch_size=batch_size),
        evaluation_loader(*data(task.validation)),
        evaluation_loader(*data(task.test)),
    )


def glorot(model: nn.Module, draws: torch.Generator) -> None:
    """Gaussian Glorot weights, zero biases, normalisation as it is made: the paper's start."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight, generator=draws)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def adam(model: nn.Module, task: Task, seed: int, learning_rate: float) -> Stepper:
    """A training from a fresh start; the seed decides the start and the order of the data."""
    glorot(model, generator(seed, "init"))
    # Fused: one call instead of one a tensor, the same update.
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    return Stepper(model, task, optimizer, seed=seed)


def validation_loss(task: Task) -> Callable[[nn.Module], float]:
    """The mean loss on the whole validation set."""
    return lambda model: mean_loss(model, task.validation, task.loss)


def accuracies(task: Task, *, train: bool = True) -> Callable[[nn.Module], dict[str, float]]:
    """Accuracy in per cent on the test set, and on the training set."""

    def measured(model: nn.Module) -> dict[str, float]:
        found = {"test accuracy %": 100 - evaluate(model, task.test).percent}
        if train:
            found["train accuracy %"] = 100 - evaluate(model, task.train).percent
        return found

    return measured

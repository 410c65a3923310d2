"""One run of these experiments: draw a network, prune it, train what is left, count mistakes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tersor.core.hooks import Method
from tersor.core.masks import HeldMasks, MaskSet
from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.prune import CRITERIA, prune_
from tersor.prune.initial import (
    initialise_,
    predicted_label,
    soft_prediction,
    uniform_target,
    variance_scaling_,
)
from tersor.prune.scoring import Batches, ScoringData
from tersor.tasks import Task, build_model, load_task
from tersor.train.stepping import Stepper

LOSSES = {
    "labels": nn.functional.cross_entropy,
    "uniform": uniform_target,
    "prediction": predicted_label,
    "soft": soft_prediction,
}


@functools.lru_cache(maxsize=4)
def task_of(name: str, batch_size: int, data_dir: str | None) -> Task:
    return load_task(name, data_dir=data_dir, batch_size=batch_size)


def draw(model: str, task: Task, seed: int, purpose: str = "first weights") -> nn.Module:
    """A network with TensorFlow's variance scaling, as the authors' code has it, biases 0."""
    seed_everything(seed, purpose)
    net = build_model(model, input_shape=tuple(task.example_input.shape[1:]))
    initialise_(net, variance_scaling_)
    return net


def scoring_data(task: Task, seed: int, *, batches: int = 1, loss: str = "labels") -> ScoringData:
    """The first training batches of a fresh order."""
    seed_everything(seed, "scoring batch")
    taken = [batch for batch, _ in zip(task.train, range(batches), strict=False)]
    return ScoringData(taken, LOSSES[loss], seed)


def prune(
    net: nn.Module, density: float, data: ScoringData | Batches, criterion: str = "snip"
) -> MaskSet:
    return prune_(net, density, criterion=CRITERIA[criterion], data=data)[0]


def redraw(net: nn.Module, seed: int) -> None:
    """A second draw of the weights, independent of the one that was scored."""
    seed_everything(seed, "second weights")
    initialise_(net, variance_scaling_)


def train(
    net: nn.Module,
    task: Task,
    masks: MaskSet | None,
    *,
    steps: int,
    rate: float,
    seed: int,
    weight_decay: float = 5e-4,
    biases: bool = True,
    drops: bool = False,
    looks: bool = True,
    methods: Sequence[Method] = (),
) -> Mapping[str, Any]:
    """SGD with momentum 0.9; errors in percent after the last step.

    The rate falls by a cosine, or (`drops`) to a tenth after each third of the steps.

    "checkpoints" are the test errors at ten points of the second half (`looks`). Nothing is chosen
    by them: the least is what the authors' code reports, and stands beside the last to compare.
    """
    held: list[Method] = [] if masks is None else [HeldMasks(net, masks)]
    trained = [p for n, p in net.named_parameters() if biases or "bias" not in n]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=weight_decay)

    def falling(step: int) -> float:
        if drops:
            return 0.1 ** (3 * step // steps)
        return 0.5 * (1 + math.cos(math.pi * step / steps))

    checkpoints: list[float] = []

    def look(step: int) -> None:
        if looks and step > steps // 2:
            checkpoints.append(evaluate(net, task.test).percent)

    net.to(memory_format=torch.channels_last)  # a third faster on a CPU, for convolutions
    stepper = Stepper(net, task, optimizer, seed=seed, rate=falling)
    losses = stepper.run(steps, methods=[*held, *methods], every=max(steps // 20, 1), watch=look)
    return {
        "loss": sum(losses[-100:]) / len(losses[-100:]),
        "checkpoints": checkpoints,
        "test error": evaluate(net, task.test).percent,
        "validation error": evaluate(net, task.validation).percent,
        "kept": {} if masks is None else {n: int(m.sum()) for n, m in masks.items()},
    }

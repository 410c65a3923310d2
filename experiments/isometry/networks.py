"""The networks of these experiments: MLPs of 3, 5 and 7 layers, drawn, pruned, made isometric."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from tersor.core.masks import MaskSet
from tersor.core.seeding import seed_everything
from tersor.prune import prune_
from tersor.prune.initial import approximate_isometry_, initialise_, variance_scaling_
from tersor.prune.scoring import ScoringData
from tersor.tasks import Task, load_task
from tersor.tasks.networks.mlp import mlp

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "linear": nn.Identity,
    "relu": nn.ReLU,
}


def he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight)


INITIALISERS = {
    "LeCun": variance_scaling_,
    "Glorot": nn.init.xavier_normal_,
    "He": he,
    "orthogonal": nn.init.orthogonal_,
    "orthogonal + AI": nn.init.orthogonal_,
}


@functools.cache
def mnist(data_dir: str | None) -> Task:
    return load_task("mnist", data_dir=data_dir, batch_size=100)


def draw(depth: int, activation: str, scheme: str, seed: int) -> nn.Module:
    """`depth` layers of weights, 100 units in each hidden one."""
    seed_everything(seed, "first weights")
    net = mlp((1, 28, 28), 10, widths=(100,) * (depth - 1), activation=ACTIVATIONS[activation])
    initialise_(net, INITIALISERS[scheme])
    return net


def prune(net: nn.Module, density: float, criterion: str, task: Task, seed: int) -> MaskSet:
    """Scored on one mini-batch, as SNIP is."""
    seed_everything(seed, "scoring batch")
    data = ScoringData([next(iter(task.train))], seed=seed)
    allocation = "uniform" if criterion == "random" else "global"
    return prune_(net, density, criterion=criterion, allocation=allocation, data=data)[0]


def enforce(net: nn.Module, masks: MaskSet) -> None:
    """At most 300 steps of L-BFGS a layer: then it has settled, or is near enough."""
    approximate_isometry_(net, masks, steps=300)

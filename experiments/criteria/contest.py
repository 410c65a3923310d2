"""One contestant at work: a trained network, pruned by it at each density, then fine-tuned."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core import HeldMasks
from tersor.core.errors import ConfigError
from tersor.measure import evaluate
from tersor.prune import CRITERIA, prune_
from tersor.prune.criteria import Karnin, Movement, obd, since
from tersor.prune.scoring import Criterion, ScoringData
from tersor.tasks import Task, build_model, load_task
from tersor.train import Stepper

CHANCE = 90.0  # the error in percent of a network without a layer, which prune_ refuses to make


@dataclass(frozen=True)
class Setting:
    """What all contestants have alike.

    Args:
        task, batch_size: of `load_task`.
        steps, rate: of the dense training; tuning_steps, tuning_rate: after pruning. Adam.
        samples: training images for criteria that look at data; few: for those that hold a
            gradient of each image and output in memory.
        units: prune hidden units of a network with batch normalisation, not single weights.
    """

    task: str = "mnist"
    batch_size: int = 128
    steps: int = 2000
    rate: float = 1e-3
    tuning_steps: int = 200
    tuning_rate: float = 5e-4
    samples: int = 1000
    few: int = 30
    units: bool = False


@dataclass(frozen=True)
class Contestant:
    """How a name of the tables is made of a criterion, a repair and rounds.

    Args:
        criterion: from the trained network.
        like: the contestant that has the same scores.
        repair, rounds: of `prune_`.
        few: it is given `Setting.few` images.
    """

    criterion: Callable[[Dense], Criterion]
    like: str | None = None
    repair: str | None = None
    rounds: int = 1
    few: bool = False


@dataclass(frozen=True)
class Dense:
    """A trained network, where it began, and what was followed on the way."""

    model: nn.Module
    initial: Mapping[str, Tensor]
    movement: Movement
    karnin: Karnin
    task: Task
    data: ScoringData
    few: ScoringData
    error: float


def _named(name: str, **more: Any) -> Contestant:
    return Contestant(lambda dense: CRITERIA[name], **more)


def _since(name: str) -> Contestant:
    return Contestant(lambda dense: since(dense.initial)[name])


WEIGHTS: dict[str, Contestant] = {
    "random": _named("random"),
    "magnitude": _named("magnitude"),
    "magnitude / layer norm": _named("magnitude_over_norm"),
    "magnitude / layer deviation": _named("magnitude_over_deviation"),
    "lookahead": _named("lookahead"),
    "magnitude increase": _since("magnitude_increase"),
    "movement distance": _since("movement_distance"),
    "large init": _since("large_init"),
    "wanda": _named("wanda"),
    "layerwise OBS": _named("layerwise_obs"),
    "layerwise OBS + repair": _named("layerwise_obs", like="layerwise OBS", repair="layerwise_obs"),
    "magnitude + layerwise repair": _named("magnitude", repair="layerwise_obs"),
    "gradient": _named("gradient_magnitude"),
    "SNIP": _named("snip"),
    "Taylor": _named("taylor"),
    "Fisher": _named("fisher"),
    "OBD, Hutchinson": _named("obd"),
    "OBD, Gauss-Newton": Contestant(lambda dense: partial(obd, curvature="gauss_newton")),
    "OBS": _named("obs", few=True),
    "OBS + repair": _named("obs", like="OBS", repair="obs", few=True),
    "GraSP": _named("grasp"),
    "SynFlow, 1 round": _named("synflow"),
    "SynFlow, 100 rounds": _named("synflow", rounds=100),
    "movement, 1 step": _named("movement"),
    "movement, training": Contestant(lambda dense: dense.movement.scores),
    "Karnin": Contestant(lambda dense: dense.karnin.scores),
}
UNITS: dict[str, Contestant] = {
    name: _named(name)
    for name in (
        *("random", "magnitude", "filter_l1", "filter_l2", "geometric_median", "nisp"),
        *("batch_norm_scale", "taylor", "taylor_gate", "fisher_gate", "skeletonization"),
    )
}
UNITS["random"] = Contestant(lambda dense: _random_units)


def _random_units(model: nn.Module, data: ScoringData) -> dict[str, Tensor]:
    """One random number for each row: the means of long rows would lie closer together."""
    scores = CRITERIA["random"](model, data)
    return {name: scores[name][:, :1].expand_as(scores[name]) for name in scores}


def compare(
    setting: Setting,
    name: str,
    allocation: str,
    densities: tuple[float, ...],
    seed: int,
    data_dir: str | None,
) -> dict[str, dict[str, float]]:
    """The test errors of one contestant in percent, by density: `plain` and `tuned`."""
    dense = train(setting, seed, data_dir)
    contestant = (UNITS if setting.units else WEIGHTS)[name]
    data = dense.few if contestant.few else dense.data
    if contestant.rounds == 1:
        ready = scores(setting, contestant.like or name, seed, data_dir)
        criterion: Criterion = lambda model, data: ready  # noqa: E731 - the same at all densities
    else:
        criterion = contestant.criterion(dense)
    found = {}
    for density in densities:
        model = copy.deepcopy(dense.model)
        try:
            masks, _ = prune_(
                model,
                density,
                criterion=criterion,
                allocation=allocation,
                pattern="row" if setting.units else "element",
                rounds=contestant.rounds,
                repair=contestant.repair,
                data=data,
                ignore="fc3" if setting.units else None,
            )
        except ConfigError as error:
            if "empty" not in str(error):
                raise
            found[str(density)] = {"plain": CHANCE, "tuned": CHANCE, "emptied": 1.0}
            continue
        plain = evaluate(model, dense.task.test).percent
        optimizer = torch.optim.Adam(model.parameters(), setting.tuning_rate)
        tuner = Stepper(model, dense.task, optimizer, seed=seed)
        tuner.run(setting.tuning_steps, methods=[HeldMasks(model, masks)])
        tuned = evaluate(model, dense.task.test).percent
        found[str(density)] = {"plain": plain, "tuned": tuned, "emptied": 0.0}
    return found


@lru_cache(2)
def scores(setting: Setting, name: str, seed: int, data_dir: str | None) -> dict[str, Tensor]:
    """A contestant's scores of the trained network, without those of the last layer's units."""
    dense = train(setting, seed, data_dir)
    contestant = (UNITS if setting.units else WEIGHTS)[name]
    found = contestant.criterion(dense)(dense.model, dense.few if contestant.few else dense.data)
    return {n: found[n] for n in found if not (setting.units and n == "fc3.weight")}


@lru_cache(1)
def train(setting: Setting, seed: int, data_dir: str | None) -> Dense:
    """The network of a seed: the same one for all contestants."""
    task = load_task(setting.task, data_dir=data_dir, batch_size=setting.batch_size)
    torch.manual_seed(seed)
    shape = tuple(task.example_input.shape[1:])
    model = with_norms(shape) if setting.units else build_model("lenet-300-100", input_shape=shape)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved, gained = Movement(model), Karnin(model)
    stepper = Stepper(model, task, torch.optim.Adam(model.parameters(), setting.rate), seed=seed)
    stepper.run(setting.steps, methods=[moved, gained])
    torch.manual_seed(seed)
    data = _scoring(task, setting.samples, seed)
    few = _scoring(task, setting.few, seed)
    error = evaluate(model, task.test).percent
    return Dense(model, initial, moved, gained, task, data, few, error)


def with_norms(shape: tuple[int, ...]) -> nn.Module:
    """LeNet-300-100 with batch normalisation behind its hidden layers."""
    plain = dict(build_model("lenet-300-100", input_shape=shape).named_children())
    order = ("flatten", "fc1", "norm1", "relu1", "fc2", "norm2", "relu2", "fc3")
    norms = {"norm1": nn.BatchNorm1d(300), "norm2": nn.BatchNorm1d(100)}
    return nn.Sequential(OrderedDict((name, {**plain, **norms}[name]) for name in order))


def _scoring(task: Task, samples: int, seed: int) -> ScoringData:
    """The first training images in the order of a seed, in batches of 100."""
    parts = []
    for batch in task.train:
        parts.append(batch)
        if sum(len(inputs) for inputs, _ in parts) >= samples:
            break
    inputs, targets = (torch.cat(each)[:samples] for each in zip(*parts, strict=True))
    return ScoringData(list(zip(inputs.split(100), targets.split(100), strict=True)), seed=seed)

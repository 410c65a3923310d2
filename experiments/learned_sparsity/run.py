"""How sparse, and how wrong: penalties, gates and Bayesian layers on MNIST.

Each method trains LeNet-300-100 (and two of them LeNet-5) from scratch with one fixed strength,
chosen by validation error on seed 100, which is none of the seeds of the table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, mean_and_range, options, put, table

from tersor import HeldMasks, build_model, evaluate, load_task, seed_everything
from tersor.core.hooks import Method
from tersor.prune import learned
from tersor.train import Stepper

HERE = Path(__file__).parent
TRAINING_SAMPLES = 55_000

# What a method does to a model, given the steps: its methods for the optimizer.
Start = Callable[[nn.Module, int], list[Method]]


def dense(model: nn.Module, steps: int) -> list[Method]:
    return []


def l1(model: nn.Module, steps: int) -> list[Method]:
    return [learned.Proximal(model, STRENGTH["l1"])]


def group_lasso(model: nn.Module, steps: int) -> list[Method]:
    strength = STRENGTH["group_lasso"]
    return [learned.Proximal(model, strength, prox="group_lasso", pattern="channel")]


def pruning_aware(model: nn.Module, steps: int) -> list[Method]:
    strength = STRENGTH["pruning_aware"]
    return [learned.PruningAware(model, strength, heal=steps * 3 // 4)]


def l0_weights(model: nn.Module, steps: int) -> list[Method]:
    learned.hard_concrete_(model)
    return [_penalized(model, learned.expected_l0, "l0_weights", steps)]


def l0_inputs(model: nn.Module, steps: int) -> list[Method]:
    learned.hard_concrete_(model, pattern="channel")
    return [_penalized(model, learned.expected_l0, "l0_inputs", steps)]


def variational_dropout(model: nn.Module, steps: int) -> list[Method]:
    learned.variational_dropout_(model)
    penalty = learned.log_uniform_divergence
    return [_penalized(model, penalty, "variational_dropout", steps)]


def normal_jeffreys(model: nn.Module, steps: int) -> list[Method]:
    learned.normal_jeffreys_(model)
    penalty = learned.normal_jeffreys_divergence
    return [_penalized(model, penalty, "normal_jeffreys", steps)]


def bottleneck(model: nn.Module, steps: int) -> list[Method]:
    learned.information_bottleneck_(model)
    return [_penalized(model, learned.bottleneck, "bottleneck", steps)]


METHODS: dict[str, Start] = {
    f.__name__: f
    for f in (
        dense,
        l1,
        pruning_aware,
        l0_weights,
        variational_dropout,
        group_lasso,
        l0_inputs,
        normal_jeffreys,
        bottleneck,
    )
}

SGD = ("l1", "group_lasso", "pruning_aware")

# Before the penalty. A divergence stands with 1 / samples and is whole by theory; the others
# were chosen on the validation set.
STRENGTH = {
    "l1": 5e-3,
    "group_lasso": 2e-3,
    "pruning_aware": 1e-3,
    "l0_weights": 5 / TRAINING_SAMPLES,
    "l0_inputs": 1 / TRAINING_SAMPLES,
    "variational_dropout": 1 / TRAINING_SAMPLES,
    "normal_jeffreys": 1 / TRAINING_SAMPLES,
    "bottleneck": 1e-3,
}

TITLES = {
    "dense": "dense",
    "l1": "L1, proximal",
    "pruning_aware": "pruning-aware, elements",
    "l0_weights": "L0, a gate a weight",
    "variational_dropout": "sparse variational dropout",
    "group_lasso": "group lasso over inputs, proximal",
    "l0_inputs": "L0, a gate an input",
    "normal_jeffreys": "normal-Jeffreys",
    "bottleneck": "information bottleneck",
}

PUBLISHED = {
    ("lenet-300-100", "variational_dropout"): "1.9 % at 1.5 % of the weights",
    ("lenet-300-100", "l0_inputs"): "1.8 % with 266-88-33",
    ("lenet-300-100", "normal_jeffreys"): "1.8 % with 278-98-13",
    ("lenet-300-100", "bottleneck"): "1.6 % with 97-71-33",
    ("lenet-5", "variational_dropout"): "0.8 % at 0.4 % of the weights",
}


def one(network: str, method: str, seed: int, steps: int, data_dir: str | None) -> dict[str, Any]:
    """Train, make plain, hold the zeros while the rest heals, and look at the test set once."""
    task = load_task("mnist", data_dir=data_dir)
    seed_everything(seed, "learned sparsity", network)
    model = build_model(network)
    own = {id(p) for p in model.parameters()}
    methods = METHODS[method](model, steps)
    healing = 0 if method == "dense" else steps // 4
    added = [p for p in model.parameters() if id(p) not in own]
    if method in SGD:  # the threshold is a learning rate times the strength
        rate = 0.1
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    else:
        rate = 1e-3
        groups = [{"params": [p for p in model.parameters() if id(p) in own]}]
        groups += [{"params": added, "lr": 1e-2}] if added else []
        optimizer = torch.optim.Adam(groups, rate)
    learner = Stepper(model, task, optimizer, seed=seed, rate=lambda step: decay(step, steps))
    learner.run(steps - healing, methods=methods)
    if added:
        masks, _ = learned.finalize_(model)
    elif methods:
        masks = methods[0].masks
    if healing:
        optimizer = type(optimizer)(model.parameters(), rate)
        healer = Stepper(
            model,
            task,
            optimizer,
            seed=seed + 1000,
            rate=lambda step: decay(steps - healing + step, steps),
        )
        healer.run(healing, methods=[HeldMasks(model, masks)])
    weights = {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}
    live = sum(int((w != 0).sum()) for w in weights.values())
    return {
        "density": live / sum(w.numel() for w in weights.values()),
        "inputs": "-".join(str(inputs_of(w)) for w in weights.values()),
        "validation": evaluate(model, task.validation).percent,
        "test": evaluate(model, task.test).percent,
    }


def decay(step: int, steps: int) -> float:
    """Cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def inputs_of(weight: torch.Tensor) -> int:
    """Input units or channels of a weight that are read at all."""
    return int((weight != 0).transpose(0, 1).flatten(1).any(dim=1).sum())


def _penalized(
    model: nn.Module, penalty: learned.Penalty, name: str, steps: int
) -> learned.Penalized:
    return learned.Penalized(model, penalty, STRENGTH[name], warm_up=steps // 4)


def main() -> None:
    given = options(__doc__, only="", strength=0.0, first=0, lenet_5=0)
    plan = [("lenet-300-100", m, 430 if given.quick else 2150) for m in METHODS]
    if given.lenet_5:
        plan += [("lenet-5", "variational_dropout", 2150), ("lenet-5", "l1", 2150)]
    rows, points = [], {}
    for network, method, steps in plan:
        if given.only and f"{network}/{method}" not in given.only.split(","):
            continue
        if given.strength:
            STRENGTH[method] = given.strength
        seeds = given.seeds if network == "lenet-300-100" else 1
        if given.quick:
            seeds = 1
        found = []
        for seed in range(given.first, given.first + seeds):
            settings = {
                "network": network,
                "method": method,
                "strength": STRENGTH.get(method),
                "steps": steps,
                "seed": seed,
                "version": 1,
            }
            found.append(
                kept(
                    HERE,
                    settings,
                    lambda s=settings: one(  # type: ignore[misc]
                        s["network"], s["method"], s["seed"], s["steps"], given.data_dir
                    ),
                )
            )
        points[network, method] = found
        rows.append(
            {
                "network": network,
                "method": TITLES[method],
                "test error %": mean_and_range([r["test"] for r in found]),
                "weights kept %": mean_and_range([100 * r["density"] for r in found], 1),
                "inputs read, first seed": found[0]["inputs"],
                "seeds": len(found),
                "published": PUBLISHED.get((network, method), ""),
            }
        )
        print(rows[-1], [r["validation"] for r in found], flush=True)
    print(table(rows))
    if given.write:
        put(HERE / "README.md", "table", table(rows))
        picture(points)


def picture(points: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Error against density, one mark a run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    marks = dict(zip(METHODS, "osD^vPX*d", strict=True))
    for (network, method), found in points.items():
        if network != "lenet-300-100":
            continue
        axes.plot(
            [100 * r["density"] for r in found],
            [r["test"] for r in found],
            marks[method],
            label=TITLES[method],
            alpha=0.8,
        )
    axes.plot([1.5], [1.92], "k+", markersize=10, label="variational dropout, published")
    axes.set(xscale="log", xlabel="weights kept, %", ylabel="test error, %")
    axes.set_title("LeNet-300-100 on MNIST")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(HERE.parents[1] / "docs" / "images" / "learned-sparsity.png", dpi=110)


if __name__ == "__main__":
    main()

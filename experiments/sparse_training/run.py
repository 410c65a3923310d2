"""Sparse training on MNIST: static, SET, RigL, SNFS, Top-KAST and others at equal density, and N:M.

    python experiments/sparse_training/run.py --data-dir DIR [--quick] [--write]

LeNet-300-100, SGD with momentum, the same number of steps for all. Every result is kept in
`runs/`, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, mean_and_range, options, put, table

from tersor.core import MaskSet
from tersor.core.hooks import Method
from tersor.core.masks import HeldMasks
from tersor.measure import evaluate
from tersor.prune import GradualPruner, prune_
from tersor.prune.dynamic import DYNAMIC, set_, training_cost
from tersor.prune.schedules import cubic
from tersor.tasks import Task, build_model, load_task
from tersor.train import Stepper

FOLDER = Path(__file__).parent
DENSITIES = (0.10, 0.05, 0.02, 0.01)
PATTERNS = ("1:4", "2:4", "2:8")
EVERY = 50  # optimizer steps between two updates
RATE = 0.1
WEIGHTS = 266_200  # of LeNet-300-100, without biases
MASKED = ("static", "set", "rigl", "snfs", "dsr", "deep_r", "top_kast", "gradual")
WAYS = ("small dense", *MASKED)
LABELS = {
    "dense": "dense",
    "small dense": "small dense network",
    "static": "static random masks",
    "set": "SET",
    "rigl": "RigL",
    "snfs": "SNFS (sparse momentum)",
    "dsr": "DSR",
    "deep_r": "DeepR",
    "top_kast": "Top-KAST",
    "gradual": "gradual magnitude pruning",
}
COST = "cost of training at 5%"
LENET = "published, LeNet-300-100 at 2%: error"  # arXiv 1907.04840; 100 epochs
RESNET = "published, ResNet-50 at 20 / 10%: accuracy"  # arXiv 1911.11134, table 1 of its code
PUBLISHED = {
    "dense": {LENET: "1.31", RESNET: "76.8"},
    "static": {RESNET: "70.6 / 65.8"},
    "set": {LENET: "2.26", RESNET: "72.9 / 69.6"},
    "rigl": {RESNET: "75.1 / 73.1"},
    "snfs": {LENET: "1.80"},
    "dsr": {LENET: "1.86"},
    "gradual": {RESNET: "75.6 / 73.9"},
}


def method(name: str, model: nn.Module, density: float, steps: int, seed: int) -> Method:
    """The method that this way of training attaches to the optimizer."""
    end = steps * 3 // 4
    if name == "static":
        return HeldMasks(model, set_(model, density, end=0, seed=seed).masks)
    if name == "gradual":
        return GradualPruner(model, density, end=end, every=EVERY)
    given: dict[str, Any] = {"seed": seed}
    if name in ("set", "rigl", "snfs", "dsr"):
        given |= {"end": end, "every": EVERY}
    elif name == "top_kast":
        given |= {"every": EVERY}
    return DYNAMIC[name](model, density, **given)


def network(widths: Sequence[int] = (300, 100)) -> nn.Module:
    """LeNet-300-100, or one with other widths."""
    if tuple(widths) == (300, 100):
        return build_model("lenet-300-100")
    first, second = widths
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, 10),
    )


def small_widths(density: float) -> tuple[int, int]:
    """The widths of a dense network with as many weights: as 3 to 1, the second at least 10."""
    budget = round(density * WEIGHTS)

    def weights(first: int) -> int:
        return 784 * first + first * _second(first) + 10 * _second(first)

    first = max(n for n in range(1, 301) if weights(n) <= budget)
    return first, _second(first)


def _second(first: int) -> int:
    return max(round(first / 3), 10)


def train(model: nn.Module, task: Task, steps: int, seed: int, methods: Sequence[Method]) -> float:
    """Train with a rate that falls to 0 as a cosine; the seconds it took."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    stepper = Stepper(model, task, optimizer, seed=seed, rate=partial(cosine_rate, steps=steps))
    began = time.perf_counter()
    stepper.run(steps, methods=methods)
    return time.perf_counter() - began


def cosine_rate(step: int, *, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def one(way: str, density: float, steps: int, seed: int, task: Task) -> dict[str, float]:
    """One network, trained one way: its errors, and the weights that are not zero."""
    torch.manual_seed(seed)
    model = network(small_widths(density) if way == "small dense" else (300, 100))
    methods = [method(way, model, density, steps, seed)] if way in MASKED else []
    seconds = train(model, task, steps, seed, methods)
    return _errors(model, task) | {"left": _left(model), "seconds": seconds}


def cost(way: str, density: float, steps: int) -> float:
    """Of training this way, in theory; dense training is 1. A weight is one multiply-accumulate."""
    if way in ("dense", "rigl", "snfs"):
        whole = training_cost(way, dense=1.0, sparse=density, every=EVERY)
    elif way == "top_kast":
        whole = training_cost(way, dense=1.0, sparse=density, backward=2 * density)
    elif way == "gradual":
        at = partial(cubic, start=0, end=steps * 3 // 4, final=density)
        mean = statistics.mean(at(step // EVERY * EVERY) for step in range(steps))
        whole = training_cost("static", dense=1.0, sparse=mean)
    else:  # masks that move without looking at dense tensors cost what fixed ones do
        whole = training_cost("static", dense=1.0, sparse=density)
    return whole / 3


def n_of_m(way: str, pattern: str, steps: int, seed: int, task: Task) -> dict[str, float]:
    """One N:M network: straight through, sparse-refined, or pruned at half time."""
    torch.manual_seed(seed)
    model = network()
    seconds = 0.0
    if way == "one-shot":
        seconds += train(model, task, steps // 2, seed, [])
        masks: MaskSet
        masks, _ = prune_(model, pattern=pattern)
        seconds += train(model, task, steps // 2, seed + 1000, [HeldMasks(model, masks)])
    else:
        decay = 2e-4 if way == "SR-STE" else 0.0
        seconds += train(model, task, steps, seed, [DYNAMIC["sr_ste"](model, pattern, decay=decay)])
    return _errors(model, task) | {"left": _left(model), "seconds": seconds}


def _left(model: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1)


def _errors(model: nn.Module, task: Task) -> dict[str, float]:
    return {
        "validation": evaluate(model, task.validation).percent,
        "test": evaluate(model, task.test).percent,
    }


Results = dict[tuple[str, Any], list[dict[str, float]]]


def methods_table(found: Results, densities: Sequence[float], steps: int) -> str:
    rows = []
    for way in ("dense", *WAYS):
        row = {"way": LABELS[way]}
        for density in densities:
            runs = found.get((way, density), [])
            row[f"{density:.0%}"] = mean_and_range([r["test"] for r in runs]) if runs else ""
        if way == "dense":
            row["100%"] = mean_and_range([r["test"] for r in found["dense", 1.0]])
        row[COST] = f"{cost(way, 0.05, steps):.3f}"
        published = PUBLISHED.get(way, {})
        rows.append(row | {column: published.get(column, "") for column in (LENET, RESNET)})
    columns = ["way", "100%", *(f"{d:.0%}" for d in densities), COST, LENET, RESNET]
    return table([{column: row.get(column, "") for column in columns} for row in rows])


def patterns_table(found: Results) -> str:
    return table(
        [
            {
                "pattern": pattern,
                "weights": f"{found['SR-STE', pattern][0]['left']:,.0f}",
                **{
                    way: mean_and_range([r["test"] for r in found[way, pattern]])
                    for way in ("one-shot", "STE", "SR-STE")
                },
            }
            for pattern in PATTERNS
        ]
    )


def picture(found: Results, densities: Sequence[float], steps: int, path: Path) -> None:
    """Test error against the cost of training, one line a way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for number, way in enumerate(WAYS):
        runs = [found[way, density] for density in densities]
        means = [statistics.mean(r["test"] for r in each) for each in runs]
        spans = [[r["test"] for r in each] for each in runs]
        low = [mean - min(span) for mean, span in zip(means, spans, strict=True)]
        high = [max(span) - mean for mean, span in zip(means, spans, strict=True)]
        shared = {"marker": "os^vD*Pxd"[number], "markersize": 5, "linewidth": 1.2}
        axes[0].errorbar([100 * d for d in densities], means, [low, high], **shared)
        costs = [cost(way, density, steps) for density in densities]
        axes[1].plot(costs, means, label=LABELS[way], **shared)
    dense = statistics.mean(r["test"] for r in found["dense", 1.0])
    for axis in axes:
        axis.axhline(dense, color="black", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_xlabel("density, %")
    axes[0].set_ylabel("test error, %")
    axes[1].set_xlabel("cost of training / dense")
    axes[0].set_ylim(2, 30)
    axes[0].set_yticks([2, 3, 5, 10, 20], ["2", "3", "5", "10", "20"])
    axes[0].minorticks_off()
    axes[0].set_xticks([100 * d for d in densities], [f"{100 * d:g}" for d in densities])
    axes[1].legend(fontsize=7, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    given = options(__doc__)
    steps = 500 if given.quick else 2000
    task = load_task("mnist", data_dir=given.data_dir, batch_size=60)
    found: Results = {}

    def record(key: tuple[str, Any], settings: dict[str, Any], compute: Callable[[], Any]) -> None:
        found.setdefault(key, []).append(kept(FOLDER, {"steps": steps} | settings, compute))

    for seed in range(given.seeds):
        record(
            ("dense", 1.0),
            {"way": "dense", "seed": seed},
            partial(one, "dense", 1.0, steps, seed, task),
        )
        for density in DENSITIES:
            for way in WAYS:
                record(
                    (way, density),
                    {"way": way, "density": density, "seed": seed}
                    | ({"widths": small_widths(density)} if way == "small dense" else {}),
                    partial(one, way, density, steps, seed, task),
                )
        for pattern in PATTERNS:
            for way in ("one-shot", "STE", "SR-STE"):
                record(
                    (way, pattern),
                    {"way": way, "pattern": pattern, "seed": seed},
                    partial(n_of_m, way, pattern, steps, seed, task),
                )
    by_method, by_pattern = methods_table(found, DENSITIES, steps), patterns_table(found)
    print(by_method, by_pattern, sep="\n\n")
    if given.write:
        put(FOLDER / "README.md", "methods", by_method)
        put(FOLDER / "README.md", "patterns", by_pattern)
        picture(
            found, DENSITIES, steps, FOLDER.parents[1] / "docs" / "images" / "sparse-training.png"
        )


if __name__ == "__main__":
    main()

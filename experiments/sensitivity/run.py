"""Allocations at equal density: LeNet-300-100 on MNIST, accuracy against what is kept.

    python experiments/sensitivity/run.py --data-dir data            # all of it
    python experiments/sensitivity/run.py --data-dir data --quick    # fewer steps

Each seed trains one network. Every allocation prunes a copy of it by magnitude, and each copy is
measured before and after a short training with its masks. Curves and proposals are measured on
validation samples; the test set is read for the table alone.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from running import kept, mean_and_range, options, put, table
from torch import nn

from tersor.core.masks import HeldMasks
from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.prune import prune_
from tersor.prune.search import greedy
from tersor.prune.sensitivity import by_sensitivity, interactions, sensitivity
from tersor.tasks import Task, build_model, load_task
from tersor.train import Stepper

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "docs" / "images" / "sensitivity.png"
DENSITIES = (0.2, 0.1, 0.05, 0.03, 0.02)
GRID = (0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
NAMES = ("uniform", "erk", "global", "lamp", "sensitivity", "greedy")


def main() -> None:
    given = options(__doc__)
    torch.set_flush_denormal(True)
    steps = {"train": 600, "tune": 50} if given.quick else {"train": 1500, "tune": 150}
    task = load_task("mnist", data_dir=given.data_dir, batch_size=100)
    runs = [
        kept(FOLDER, {"seed": seed, **steps}, lambda seed=seed: one_seed(task, seed, **steps))
        for seed in range(given.seeds)
    ]
    texts = {
        "before": _table(runs, "before"),
        "after": _table(runs, "after"),
        "layers": _layers(runs[0]),
        "interactions": _interactions(runs),
    }
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")
        if given.write:
            put(FOLDER / "README.md", name, text)
    if given.write:
        draw(runs, PICTURE)


def one_seed(task: Task, seed: int, *, train: int, tune: int) -> dict[str, Any]:
    """Test accuracies by allocation and density, and what the allocations were made of."""
    seed_everything(seed, "init")
    dense = build_model("lenet-300-100")
    _stepper(dense, task, seed).run(train)
    loss = _Loss(task)
    curves = sensitivity(dense, loss, densities=GRID)
    result: dict[str, Any] = {
        "dense": 100 - evaluate(dense, task.test).percent,
        "curves": {n: [c.groups, c.kept, c.values] for n, c in curves.layers.items()},
        "interactions": [dict(row) for row in interactions(dense, loss, 0.05).rows],
        "before": {},
        "after": {},
        "kept": {},
    }
    for name in NAMES:
        for part in ("before", "after", "kept"):
            result[part][name] = []
        for density in DENSITIES:
            allocation: Any = name
            if name == "sensitivity":
                allocation = by_sensitivity(curves)
            elif name == "greedy":
                allocation, _ = greedy(dense, loss, density, rounds=12)
            net = copy.deepcopy(dense)
            masks, report = prune_(net, density, allocation=allocation)
            assert masks.kept == round(density * masks.total)
            result["kept"][name].append([row["density"] for row in report.rows])
            result["before"][name].append(100 - evaluate(net, task.test).percent)
            _stepper(net, task, seed + 1000).run(tune, methods=[HeldMasks(net, masks)])
            result["after"][name].append(100 - evaluate(net, task.test).percent)
    return result


class _Loss:
    """The mean loss over the first 2,000 validation samples."""

    def __init__(self, task: Task) -> None:
        parts = [(x, y) for x, y in task.validation][:2]
        self.batches, self.loss = parts, task.loss

    def __call__(self, model: nn.Module) -> float:
        return mean_loss(model, self.batches, self.loss)


def _stepper(model: nn.Module, task: Task, seed: int) -> Stepper:
    return Stepper(model, task, torch.optim.Adam(model.parameters(), 1.2e-3), seed=seed)


def _table(runs: Sequence[dict[str, Any]], part: str) -> str:
    rows = []
    for name in NAMES:
        row = {"allocation": name}
        for place, density in enumerate(DENSITIES):
            row[f"{100 * density:g} %"] = mean_and_range([r[part][name][place] for r in runs])
        rows.append(row)
    return f"dense: {mean_and_range([r['dense'] for r in runs])}\n\n{table(rows)}"


def _layers(run: dict[str, Any]) -> str:
    """What each allocation keeps of each layer at 5 %, of the first seed."""
    place = DENSITIES.index(0.05)
    names = ("fc1", "fc2", "fc3")
    return table(
        [
            {"allocation": name}
            | {
                f"{layer} %": f"{100 * share:.1f}"
                for layer, share in zip(names, run["kept"][name][place], strict=True)
            }
            for name in NAMES
        ]
    )


def _interactions(runs: Sequence[dict[str, Any]]) -> str:
    columns = ("first alone", "second alone", "both", "interaction")
    return table(
        [
            {"pair": f"{row['first']}, {row['second']}"}
            | {c: mean_and_range([r["interactions"][place][c] for r in runs]) for c in columns}
            for place, row in enumerate(runs[0]["interactions"])
        ]
    )


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Left the curve of each layer, right the accuracy of each allocation after training."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, (groups, counts, values) in runs[0]["curves"].items():
        left.plot([100 * c / groups for c in counts], values, marker="o", markersize=3, label=name)
    left.set(xscale="log", xlabel="kept of one layer, %", ylabel="validation loss")
    for name in NAMES:
        found = torch.tensor([r["after"][name] for r in runs])
        x = [100 * d for d in DENSITIES]
        right.plot(x, found.mean(dim=0), marker="o", markersize=3, label=name)
        right.fill_between(x, found.amin(dim=0), found.amax(dim=0), alpha=0.12)
    right.axhline(sum(r["dense"] for r in runs) / len(runs), color="grey", linestyle=":")
    right.set(xscale="log", xlabel="kept of all weights, %", ylabel="test accuracy, %")
    for axes in (left, right):
        axes.invert_xaxis()
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

"""Allocations at equal density: LeNet-300-100 on MNIST, accuracy against what is kept.

    python experiments/sensitivity/run.py --data-dir data            # all of it
    python experiments/sensitivity/run.py --data-dir data --quick    # fewer steps

Each seed trains one network. Every allocation prunes a copy of it by magnitude, and each copy is
measured before and after a short training with its masks. Curves and proposals are measured on
validation samples; the test set is read for the table alone.
"""

from __future__ import annotations

import copy
import functools
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
from tersor.prune.sensitivity import Curves, by_sensitivity, interactions, sensitivity
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
    steps = {"train": 300, "tune": 30} if given.quick else {"train": 600, "tune": 60}
    task = load_task("mnist", data_dir=given.data_dir, batch_size=100)
    runs = [one_seed(task, seed, **steps) for seed in range(given.seeds)]
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
    loss = _Loss(task)

    @functools.cache
    def dense() -> nn.Module:
        seed_everything(seed, "init")
        model = build_model("lenet-300-100")
        _stepper(model, task, seed).run(train)
        return model

    @functools.cache
    def curves() -> Curves:
        return sensitivity(dense(), loss, densities=GRID)

    def basis() -> dict[str, Any]:
        return {
            "dense": 100 - evaluate(dense(), task.test).percent,
            "curves": {n: [c.groups, c.kept, c.values] for n, c in curves().layers.items()},
            "interactions": [dict(row) for row in interactions(dense(), loss, 0.05).rows],
        }

    def allocated(name: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"kept": [], "before": [], "after": []}
        for density in DENSITIES:
            allocation: Any = name
            if name == "sensitivity":
                allocation = by_sensitivity(curves())
            elif name == "greedy":
                allocation, _ = greedy(dense(), loss, density, rounds=12)
            net = copy.deepcopy(dense())
            masks, report = prune_(net, density, allocation=allocation)
            assert masks.kept == round(density * masks.total)
            found["kept"].append([row["density"] for row in report.rows])
            found["before"].append(100 - evaluate(net, task.test).percent)
            _stepper(net, task, seed + 1000).run(tune, methods=[HeldMasks(net, masks)])
            found["after"].append(100 - evaluate(net, task.test).percent)
        return found

    settings = {"seed": seed, "train": train, "tune": tune}
    result = kept(FOLDER, settings | {"part": "dense"}, basis)
    for name in NAMES:
        part = kept(FOLDER, settings | {"part": name}, lambda name=name: allocated(name))
        for key, values in part.items():
            result.setdefault(key, {})[name] = values
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
    right.set_ylim(84, 98)  # uniform leaves the picture; the table has it
    for axes, ticks in ((left, (100, 30, 10, 3, 1)), (right, (20, 10, 5, 3, 2))):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

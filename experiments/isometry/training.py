"""What isometry is good for: error and training curve of sparse networks, by initialiser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from networks import ACTIVATIONS, INITIALISERS, draw, enforce, mnist, prune
from running import kept, mean_and_range, table

from tersor.core.errors import ConfigError, TrainingError
from tersor.core.masks import HeldMasks
from tersor.measure import evaluate
from tersor.train.stepping import Stepper

STEPS, QUICK = 2000, 200
RATE = 0.05
EARLY = 300  # steps after which a curve is read off


def run(
    depth: int,
    activation: str,
    scheme: str,
    density: float,
    steps: int,
    seed: int,
    data_dir: str | None,
) -> dict[str, Any]:
    """SNIP, isometry if the scheme says so, SGD with a cosine; the loss of each 20 steps."""
    task = mnist(data_dir)
    net = draw(depth, activation, scheme, seed)
    try:
        masks = prune(net, density, "snip", task, seed)
    except ConfigError as error:  # a layer would be empty
        return {"failed": str(error)}
    if scheme.endswith("AI"):
        enforce(net, masks)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4)

    def cosine(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps))

    stepper = Stepper(net, task, optimizer, seed=seed, rate=cosine)
    try:
        losses = stepper.run(steps, methods=[HeldMasks(net, masks)])
    except TrainingError as error:
        return {"failed": str(error)}
    curve = [sum(losses[i : i + 20]) / 20 for i in range(0, steps, 20)]
    return {"test error": evaluate(net, task.test).percent, "curve": curve}


def _results(
    folder: Path, settings: dict[str, Any], seeds: int, data_dir: str | None
) -> list[dict[str, Any]]:
    return [
        kept(
            folder,
            {"part": "training"} | settings | {"rate": RATE, "seed": seed},
            lambda seed=seed: run(**settings, seed=seed, data_dir=data_dir),
        )
        for seed in range(seeds)
    ]


def _cell(results: list[dict[str, Any]], early: int) -> str:
    good = [r for r in results if "failed" not in r]
    if not good:
        return "failed"
    loss = sum(r["curve"][early // 20] for r in good) / len(good)
    failed = f"; {len(results) - len(good)} failed" if len(good) < len(results) else ""
    return f"{mean_and_range([r['test error'] for r in good])}; {loss:.2f}{failed}"


def schemes(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """Initialiser by depth and activation at 90 %: test error %; loss after `EARLY` steps."""
    steps = QUICK if quick else STEPS
    rows = []
    for activation in ACTIVATIONS:
        for depth in (7,) if quick else (3, 5, 7):
            row = {"activation": activation, "layers": depth}
            for scheme in INITIALISERS:
                settings = {"depth": depth, "activation": activation, "scheme": scheme}
                results = _results(
                    folder, settings | {"density": 0.1, "steps": steps}, seeds, data_dir
                )
                row[scheme] = _cell(results, min(EARLY, steps // 2))
            rows.append(row)
    return table(rows)


SPARSE = (0.1, 0.05, 0.02)


def sparsities(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """Seven layers of tanh at growing sparsity: test error %; loss after `EARLY` steps."""
    steps = QUICK if quick else STEPS
    rows = []
    curves: dict[float, dict[str, list[float]]] = {}
    for density in SPARSE:
        row = {"sparsity %": f"{100 * (1 - density):.0f}"}
        for scheme in ("LeCun", "orthogonal", "orthogonal + AI"):
            settings = {"depth": 7, "activation": "tanh", "scheme": scheme}
            results = _results(
                folder, settings | {"density": density, "steps": steps}, seeds, data_dir
            )
            row[scheme] = _cell(results, min(EARLY, steps // 2))
            good = [r["curve"] for r in results if "failed" not in r]
            if good:
                mean = [sum(values) / len(values) for values in zip(*good, strict=True)]
                curves.setdefault(density, {})[scheme] = mean
        rows.append(row)
    if not quick:
        _draw(curves, folder / "curves.png")
    return table(rows)


def _draw(curves: dict[float, dict[str, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3), sharey=True)
    for axis, (density, lines) in zip(axes, curves.items(), strict=True):
        for scheme, losses in lines.items():
            axis.plot([20 * i + 10 for i in range(len(losses))], losses, label=scheme, lw=1.2)
        axis.set_title(f"{1 - density:.0%} sparse", fontsize=9)
        axis.set_xlabel("step")
        axis.set_yscale("log")
    axes[0].set_ylabel("training loss")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)

"""SNIP beyond LeNets: a small VGG on CIFAR-10, an LSTM and a GRU that read MNIST row by row."""

from __future__ import annotations

from pathlib import Path

from running import kept, mean_and_range, table
from training import draw, prune, scoring_data, task_of, train

# network: task, batch size, steps, rate, densities
CIFAR = {"vgg-small": ("cifar10", 128, 600, 0.05, (1.0, 0.1, 0.05))}
RECURRENT = {
    "lstm-s": ("mnist", 100, 1200, 0.1, (1.0, 0.05)),
    "gru-s": ("mnist", 100, 1200, 0.1, (1.0, 0.05)),
}
QUICK = 20


def run(
    model: str,
    task_name: str,
    batch: int,
    density: float,
    steps: int,
    rate: float,
    seed: int,
    data_dir: str | None,
):
    task = task_of(task_name, batch, data_dir)
    net = draw(model, task, seed)
    masks = None if density == 1 else prune(net, density, scoring_data(task, seed))
    return train(net, task, masks, steps=steps, rate=rate, seed=seed, looks=False)


def _table(networks, folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    rows = []
    for model, (task, batch, steps, rate, densities) in networks.items():
        for density in densities:
            settings = {"part": "larger", "model": model, "task": task, "batch": batch}
            settings |= {"density": density, "steps": QUICK if quick else steps, "rate": rate}
            results = [
                kept(
                    folder,
                    settings | {"seed": seed},
                    lambda s=dict(settings), seed=seed: run(
                        s["model"],
                        s["task"],
                        s["batch"],
                        s["density"],
                        s["steps"],
                        s["rate"],
                        seed,
                        data_dir,
                    ),
                )
                for seed in range(seeds)
            ]
            errors = [result["test error"] for result in results]
            rows.append(
                {
                    "network": model,
                    "sparsity %": "dense" if density == 1 else f"{100 * (1 - density):.0f}",
                    "kept": "" if density == 1 else f"{sum(results[0]['kept'].values()):,}",
                    "seeds": len(results),
                    "error %": mean_and_range(errors),
                }
            )
    return table(rows)


def cifar(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    return _table(CIFAR, folder, seeds, quick, data_dir)


def recurrent(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    return _table(RECURRENT, folder, seeds, quick, data_dir)

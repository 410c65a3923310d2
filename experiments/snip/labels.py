"""Random labels: a dense network learns them by heart; one that SNIP left little of does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from running import kept, mean_and_range, table
from training import draw, prune, scoring_data, task_of, train

from tersor.core.seeding import generator
from tersor.tasks.batches import evaluation_loader, training_loader

IMAGES = 5000
STEPS, QUICK = 2500, 800


def run(density: float, random: bool, steps: int, seed: int, data_dir: str | None):
    task = task_of("mnist", 100, data_dir)
    data = task.train.dataset  # type: ignore[attr-defined]
    inputs, targets = data.inputs[:IMAGES], data.targets[:IMAGES]
    if random:
        drawn = generator(seed, "random labels")
        targets = torch.randint(0, 10, (IMAGES,), generator=drawn)
    # What is asked here is the error on the images that were trained on: they are "validation".
    few = dataclasses.replace(
        task,
        train=training_loader(inputs, targets, batch_size=100),
        validation=evaluation_loader(inputs, targets),
    )
    net = draw("lenet-300-100", few, seed)
    masks = None if density == 1 else prune(net, density, scoring_data(few, seed))
    return train(net, few, masks, steps=steps, rate=0.05, seed=seed, weight_decay=0.0)


def main(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    rows = []
    steps = QUICK if quick else STEPS
    for density in (1.0, 0.1, 0.01):
        row = {"network": "dense" if density == 1 else f"SNIP, {100 * (1 - density):.0f} %"}
        for random in (False, True):
            settings = {"part": "labels", "density": density, "random": random, "steps": steps}
            results = [
                kept(
                    folder,
                    settings | {"seed": seed},
                    lambda seed=seed, d=density, r=random: run(d, r, steps, seed, data_dir),
                )
                for seed in range(seeds)
            ]
            right = [100 - result["validation error"] for result in results]
            row[f"{'random' if random else 'true'} labels: trained images right, %"] = (
                mean_and_range(right, 1)
            )
            if not random:
                row["test images right, %"] = mean_and_range(
                    [100 - result["test error"] for result in results], 1
                )
        rows.append(row)
    return table(rows)

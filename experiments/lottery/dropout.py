"""Dropout and one-shot pruning together: LeNet-300-100, half of its hidden units dropped."""

from __future__ import annotations

from collections import OrderedDict

import lenet
from running import mean_and_range, table
from torch import nn
from training import accuracies, adam, glorot, validation_loss

from tersor.prune.lottery import Record, TicketSettings, find_tickets
from tersor.tasks import Task, build_model

LEVELS = (0, 3, 7)


def main(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """Accuracy at the early-stop step, with dropout beside without."""
    steps = 1_000 if quick else 15_000
    task = lenet.load(data_dir)
    all_plain = lenet.trained(seeds, steps, data_dir)
    plain = [r for r in all_plain if r.what == "one-shot" or r.level == 0]
    dropped = [record for seed in seeds for record in _tickets(task, seed, steps)]
    rows = []
    for level in LEVELS:
        row = {"kept %": ""}
        for name, records in (("plain", plain), ("dropout 0.5", dropped)):
            here = [record for record in records if record.level == level]
            row["kept %"] = f"{100 * here[0].density:.1f}"
            row[name] = mean_and_range([r.at_early_stop[lenet.ACCURACY] for r in here])
            row[f"{name}: step"] = mean_and_range([r.early_stop_step for r in here], 0)
            row[f"{name}: at the end"] = mean_and_range([r.at_end[lenet.ACCURACY] for r in here])
        rows.append(row)
    return table(rows)


def with_dropout(model: nn.Sequential, share: float) -> nn.Sequential:
    """The same network with a dropout behind each hidden layer's ReLU."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in model.named_children():
        parts[name] = module
        if isinstance(module, nn.ReLU):
            parts[f"{name}_dropout"] = nn.Dropout(share)
    return nn.Sequential(parts)


def _tickets(task: Task, seed: int, steps: int) -> list[Record]:
    trainer = adam(with_dropout(build_model("lenet-300-100"), 0.5), task, seed, 1.2e-3)
    found = find_tickets(
        trainer,
        TicketSettings(
            steps=steps, rounds=max(LEVELS), one_shot=True, one_shot_levels=LEVELS[1:], seed=seed
        ),
        validate=validation_loss(task),
        evaluate=accuracies(task, train=False),
        folder=lenet.RUNS,
        decided_by={"task": task.name, "model": "lenet-300-100, dropout 0.5", "seed": seed},
        initialise=glorot,
        shown=lenet.shown,
    )
    return [level.record for level in found.levels]

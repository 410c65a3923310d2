"""Why rewind to step k: a small network with batch normalisation, trained by SGD at rate 0.1.

Two questions on Fashion-MNIST: from which step on is the training stable to the order of the data,
and how good are the tickets that go back to step 0, to a later step, or not at all?
"""

from __future__ import annotations

from pathlib import Path

import lenet
import torch
from running import kept, mean_and_range, table
from torch import Tensor, nn
from training import accuracies, glorot, validation_loss

from tersor.core.seeding import generator
from tersor.measure import evaluate
from tersor.measure.connectivity import instability
from tersor.prune.lottery import Record, TicketSettings, find_tickets
from tersor.tasks import Task, load_task
from tersor.train import Stepper

FOLDER = Path(__file__).parent
ROUNDS, DROPPED = 4, 0.4


def main(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """Two tables: barriers against k, and accuracy of the ways to train again."""
    task = load_task("fashion-mnist", data_dir=data_dir, batch_size=64)
    steps = 240 if quick else 400
    late = steps // 8
    barriers = []
    for k in (0, steps // 32, steps // 8, steps // 2):
        results = [_barrier(task, seed, k, steps) for seed in seeds]
        barriers.append(
            {
                "copies part at step": f"{k:,}",
                "barrier, points": mean_and_range([r["barrier"] for r in results]),
                "the same, statistics taken anew": mean_and_range([r["anew"] for r in results]),
                "error of the ends %": mean_and_range([r["error"] for r in results]),
            }
        )
    ways = {
        "rewind to 0": ("rewind", 0),
        f"rewind to {late}": ("rewind", late),
        f"learning rates of {late} on": ("learning-rate", late),
        "fine-tune": ("fine-tune", late),
    }
    records = {
        title: [r for seed in seeds for r in _tickets(task, seed, steps, way, k)]
        for title, (way, k) in ways.items()
    }
    rows = []
    for level in range(ROUNDS + 1):
        row = {"kept %": ""}
        for title, found in records.items():
            here = [r for r in found if r.level == level]
            for what in ("ticket", "random-reinit"):
                mine = [r for r in here if r.what == what]
                if mine:
                    row["kept %"] = f"{100 * mine[0].density:.1f}"
                    name = title if what == "ticket" else "new start"
                    row[name] = mean_and_range([r.at_end[lenet.ACCURACY] for r in mine])
        rows.append(row)
    return table(barriers) + "\n\n" + table(rows)


def small() -> nn.Module:
    """Three convolutions with batch normalisation; 23,904 weights."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        parts.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False))
        parts += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def sgd(task: Task, seed: int, order: int, steps: int) -> Stepper:
    """Rate 0.1, from half of the steps on 0.01, from three quarters on 0.001; momentum 0.9."""

    def rate(step: int) -> float:
        return 1.0 if step < steps // 2 else 0.1 if step < 3 * steps // 4 else 0.01

    model = small()
    glorot(model, generator(seed, "init"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return Stepper(model, task, optimizer, seed=order, rate=rate)


def _barrier(task: Task, seed: int, k: int, steps: int) -> dict[str, float]:
    decided_by = {"part": "rewinding", "seed": seed, "k": k, "steps": steps}
    return kept(FOLDER, decided_by, lambda: _computed(task, seed, k, steps))


def _computed(task: Task, seed: int, k: int, steps: int) -> dict[str, float]:
    begin = sgd(task, seed, seed, steps)
    begin.run(k)
    at_k = begin.state_dict()
    ends: dict[int, dict[str, Tensor]] = {}

    def train(copy: int) -> dict[str, Tensor]:
        if copy not in ends:
            trainer = sgd(task, seed, 1000 * (copy + 1) + seed, steps)
            trainer.load_state_dict(at_k)
            trainer.run(steps)
            ends[copy] = trainer.state_dict()["model"]
        return ends[copy]

    def error(net: nn.Module) -> float:
        return evaluate(net, task.test).percent

    batches = [batch for batch, _ in zip(task.train, range(20), strict=False)]
    (path,) = instability(train, begin.model, error, points=15)
    (anew,) = instability(train, begin.model, error, points=15, statistics=batches)
    return {
        "barrier": path.barrier,
        "anew": anew.barrier,
        "error": (path.errors[0] + path.errors[-1]) / 2,
    }


def _tickets(task: Task, seed: int, steps: int, way: str, k: int) -> list[Record]:
    controlled = way == "rewind" and k == 0
    found = find_tickets(
        sgd(task, seed, seed, steps),
        TicketSettings(
            steps=steps,
            rounds=ROUNDS,
            drop_fraction=DROPPED,
            layer_drop_fractions={"Linear": 0.0},
            allocation="global",
            strategy=way,
            rewind_step=k,
            log_every=steps // 4,
            controls=("random-reinit",) if controlled else (),
            seed=seed,
        ),
        validate=validation_loss(task),
        evaluate=accuracies(task, train=False),
        folder=lenet.RUNS,
        decided_by={"task": task.name, "model": "small", "optimizer": "sgd 0.1", "seed": seed},
        initialise=glorot,
        shown=lenet.shown,
    )
    return [level.record for level in found.levels] + list(found.controls)

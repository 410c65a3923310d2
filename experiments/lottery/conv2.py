"""Conv-2 on CIFAR-10, very short: tickets against a new start, with and without dropout.

A step takes a core 0.3 s, so this is no reproduction: 400 of the paper's 20,000 steps, two rounds
that each do the work of four, one seed.
"""

from __future__ import annotations

import lenet
from dropout import with_dropout
from running import table
from training import adam, glorot

from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.prune.lottery import Record, TicketSettings, find_tickets
from tersor.tasks import Task, build_model, load_task

ROUNDS = 2
CONV, FULL, OUTPUT = (round(1 - kept**4, 4) for kept in (0.9, 0.8, 0.9))
"""What four of the paper's rounds remove: 34, 59 and 34 %."""


def main(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """Validation loss and test accuracy after so few steps, one row a level."""
    steps = 60 if quick else 400
    task = load_task("cifar10", data_dir=data_dir, batch_size=60)
    rows = []
    records = {share: _records(task, steps, share) for share in (0.0, 0.5)}
    for level in range(ROUNDS + 1):
        row = {"kept %": ""}
        for share, name in ((0.0, "plain"), (0.5, "dropout 0.5")):
            for record in records[share]:
                if record.level == level:
                    column = f"{name}: {record.what}" if level else f"{name}: ticket"
                    row["kept %"] = f"{100 * record.density:.1f}"
                    row[f"{column} %"] = f"{record.at_end[lenet.ACCURACY]:.1f}"
                    row[f"{column} loss"] = f"{record.log[-1][1]:.3f}"
        rows.append(row)
    return table(rows)


def _records(task: Task, steps: int, share: float) -> list[Record]:
    rate, control = (2e-4, ("random-reinit",)) if share == 0 else (3e-4, ())  # the paper's rates
    model = build_model("conv-2", input_shape=(3, 32, 32))
    found = find_tickets(
        adam(with_dropout(model, share) if share else model, task, 0, rate),
        TicketSettings(
            steps=steps,
            rounds=ROUNDS,
            drop_fraction=FULL,
            output_drop_fraction=OUTPUT,
            layer_drop_fractions={"Conv2d": CONV},
            log_every=steps // 2,
            controls=control,
            control_levels=(2,),
        ),
        validate=lambda net: mean_loss(net, _first(task.validation, 500), task.loss),
        evaluate=lambda net: {lenet.ACCURACY: 100 - evaluate(net, _first(task.test, 2000)).percent},
        folder=lenet.RUNS,
        decided_by={"task": task.name, "model": f"conv-2, dropout {share}", "seed": 0},
        initialise=glorot,
        shown=lenet.shown,
    )
    return [level.record for level in found.levels] + list(found.controls)


def _first(loader, count: int):
    """The first samples of a loader whose order is fixed, in its batches."""
    left = count
    for inputs, targets in loader:
        yield inputs[:left], targets[:left]
        left -= len(inputs)
        if left <= 0:
            return

"""LeNet-300-100 on MNIST: tickets, random re-initialisation, random masks, one-shot pruning."""

from __future__ import annotations

import sys
from pathlib import Path

from running import mean_and_range, table
from training import accuracies, adam, glorot, unit_norm_mnist, validation_loss

from tersor.prune.lottery import Record, Tickets, TicketSettings, find_tickets
from tersor.tasks import Task, build_model, load_task

RUNS = Path(__file__).parent / "runs"
CONTROLLED = (3, 7, 9, 15)
"""The levels that have controls: 51.3, 21.1, 13.5 and 3.6 % of the weights."""

NETWORKS = ("ticket", "one-shot", "random-reinit", "random-mask")
ACCURACY = "test accuracy %"


def main(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """The table of all levels."""
    steps = 1_000 if quick else 15_000
    found = trained(seeds, steps, data_dir)
    if not quick and len(seeds) > 1:
        from pictures import draw

        draw(found, steps, Path(__file__).parent / "lenet.png")
    return table(rows(found))


def pixels(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """The dense network with the authors' pixels, and with standardised ones."""
    steps = 1_000 if quick else 15_000
    lines = []
    for title, task in (
        ("of unit length", load(data_dir)),
        ("standardised", load_task("mnist", data_dir=data_dir, batch_size=60)),
    ):
        if title == "standardised":
            alone = TicketSettings(steps=steps, rounds=0)
            dense = [_search(task, seed, alone).levels[0].record for seed in seeds]
        else:
            dense = [r for r in trained(seeds, steps, data_dir) if r.level == 0]
        lines.append(
            {
                "images": title,
                "early-stop step": mean_and_range([r.early_stop_step for r in dense], 0),
                "test % there": mean_and_range([r.at_early_stop[ACCURACY] for r in dense]),
                "test % at the end": mean_and_range([r.at_end[ACCURACY] for r in dense]),
            }
        )
    return table(lines)


def trained(seeds: list[int], steps: int, data_dir: str | None) -> list[Record]:
    """The records of all networks of all seeds."""
    task = load(data_dir)
    found: list[Record] = []
    for seed in seeds:
        iterative = tickets(task, seed, steps=steps, levels=CONTROLLED)
        found += [level.record for level in iterative.levels] + list(iterative.controls)
        for level in one_shot(task, seed, steps=steps, levels=CONTROLLED).levels[1:]:
            found.append(Record.from_dict(level.record.to_dict() | {"what": "one-shot"}))
    return found


def rows(found: list[Record]) -> list[dict[str, str]]:
    """One row a level: accuracy and early-stop step, mean and range of the seeds."""
    made = []
    for level in sorted({record.level for record in found}):
        here = [record for record in found if record.level == level]
        row = {"kept %": f"{100 * here[0].density:.1f}"}
        for what in NETWORKS:
            mine = [record for record in here if record.what == what]
            if mine:
                row[what] = mean_and_range([r.at_early_stop[ACCURACY] for r in mine])
                row[f"{what}: step"] = mean_and_range([r.early_stop_step for r in mine], 0)
            if mine and what == "ticket":
                row["ticket at the end"] = mean_and_range([r.at_end[ACCURACY] for r in mine])
        made.append(row)
    return made


def load(data_dir: str | None) -> Task:
    return unit_norm_mnist(data_dir)


def tickets(task: Task, seed: int, *, steps: int, levels: tuple[int, ...]) -> Tickets:
    """Iterative pruning with rewinding to step 0, and the two controls of the paper's figures."""
    settings = TicketSettings(
        steps=steps,
        rounds=max(levels),
        controls=("random-reinit", "random-mask"),
        control_levels=levels,
        seed=seed,
    )
    return _search(task, seed, settings)


def one_shot(task: Task, seed: int, *, steps: int, levels: tuple[int, ...]) -> Tickets:
    """All masks from the dense network."""
    settings = TicketSettings(
        steps=steps, rounds=max(levels), one_shot=True, one_shot_levels=levels, seed=seed
    )
    return _search(task, seed, settings)


def _search(task: Task, seed: int, settings: TicketSettings) -> Tickets:
    trainer = adam(build_model("lenet-300-100"), task, seed, 1.2e-3)
    decided_by = {
        "task": task.name,
        "model": "lenet-300-100",
        "start": "gaussian glorot",
        "optimizer": "adam",
        "learning rate": 1.2e-3,
        "batch size": 60,
        "seed": seed,
    }
    return find_tickets(
        trainer,
        settings,
        validate=validation_loss(task),
        evaluate=accuracies(task),
        folder=RUNS,
        decided_by=decided_by,
        initialise=glorot,
        shown=shown,
    )


def shown(record: Record) -> None:
    """A line on what was trained or read."""
    print(
        f"{record.what:14} level {record.level:2}  {100 * record.density:5.1f} %  "
        f"early stop {record.early_stop_step:6,}  "
        f"{record.at_early_stop[ACCURACY]:.2f}  {record.at_end[ACCURACY]:.2f}",
        file=sys.stderr,
        flush=True,
    )

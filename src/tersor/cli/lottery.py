"""`tersor lottery`: which weights of a network would have been enough from the start."""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tersor.cli.door import guarded
from tersor.cli.networks import starting_network
from tersor.cli.options import DataDir, Json, ModelName, Seed, TaskName
from tersor.cli.showing import show_text
from tersor.core.errors import StorageError
from tersor.core.files import write_text
from tersor.core.report import Report, Value
from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.prune.lottery import CONTROLS, Record, Tickets, TicketSettings, find_tickets
from tersor.tasks import Task, load_task
from tersor.train import Stepper, Training
from tersor.train.settings import make_optimizer
from tersor.version import __version__

_ACCURACY = "test accuracy %"


@guarded
def lottery_command(
    task: TaskName = "digits",
    model: ModelName = "lenet-300-100",
    rounds: Annotated[int, typer.Option(help="How often weights are removed.")] = 12,
    drop_fraction: Annotated[
        float, typer.Option(help="Of what is left, in each round; in the last layer half of it.")
    ] = 0.2,
    steps: Annotated[int, typer.Option(help="Optimizer steps of one training.")] = 500,
    rewind: Annotated[
        int, typer.Option(metavar="STEP", help="The step to which the weights go back.")
    ] = 0,
    strategy: Annotated[
        str, typer.Option(help="One of: rewind, learning-rate, fine-tune, continue.")
    ] = "rewind",
    one_shot: Annotated[
        bool, typer.Option("--one-shot", help="Take every mask from the dense network.")
    ] = False,
    controls: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Any of: {', '.join(CONTROLS)}; or none.")
    ] = "random-reinit,random-mask",
    learning_rate: Annotated[float, typer.Option(help="A number above 0.")] = 1.2e-3,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 60,
    optimizer: Annotated[str, typer.Option(help="One of: adam, adamw, sgd.")] = "adam",
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Default: TASK-MODEL-lottery."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Search for lottery tickets: train, remove the smallest weights, go back, train again.

    Each line of the table is a density: how soon a network with so few weights has learned (the
    step of its least validation loss), how good it is there and at the end, and how good its
    controls are: the same mask over other weights, another mask over the same. Nothing is chosen by
    the test set.

    The folder gets report.json, report.md and the masks of each level. After an interrupt the same
    command goes on where it was; a finished search is only read.

    Examples:

      tersor lottery

      tersor lottery --task mnist --rounds 16 --steps 15000 --data-dir data
    """
    settings = TicketSettings.read(
        {
            "steps": steps,
            "rounds": rounds,
            "drop_fraction": drop_fraction,
            "rewind_step": rewind,
            "strategy": strategy,
            "one_shot": one_shot,
            # As often as the paper does, but of a short training at least fifty times.
            "log_every": max(1, min(100, steps // 50)),
            "controls": _names(controls),
            "seed": seed,
        },
        where="lottery",
    )
    training = Training.read(
        {"epochs": 1, "optimizer": optimizer, "learning_rate": learning_rate}, where="lottery"
    )
    loaded = load_task(task, data_dir=data_dir, batch_size=batch_size)
    network = starting_network(loaded, model, seed, None)
    folder = _made(out or Path(f"{task}-{model}-lottery"))
    tickets = find_tickets(
        Stepper(network, loaded, make_optimizer(network, training), seed=seed),
        settings,
        validate=lambda net: mean_loss(net, loaded.validation, loaded.loss),
        evaluate=lambda net: {_ACCURACY: 100 - _error(net, loaded)},
        folder=folder,
        decided_by={
            "task": task,
            "model": model,
            "optimizer": optimizer,
            "learning rate": learning_rate,
            "batch size": batch_size,
            "seed": seed,
            "tersor": __version__,
        },
        shown=_progress,
    )
    report = _report(f"Lottery tickets: {model} on {task}", tickets, settings)
    for level in tickets.levels:
        level.masks.save(folder / f"masks-{level.record.level:02d}.pt")
    write_text(folder / "report.json", report.to_json() + "\n")
    write_text(folder / "report.md", report.to_markdown(level=1) + "\n")
    if as_json:
        print(json.dumps({"folder": str(folder)} | report.to_dict()))
        return
    show_text(Report(report.title, report.summary, report.rows, notes=report.notes))
    print(f"\nThe whole report and the masks: {folder}{os.sep}")


def _names(controls: str) -> tuple[str, ...]:
    """Names with commas between them; "none" is no control."""
    names = tuple(name.strip() for name in controls.split(",") if name.strip())
    return () if names == ("none",) else names


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def _error(network: Any, task: Task) -> float:
    return evaluate(network, task.test, mistakes=task.mistakes).percent


def _progress(record: Record) -> None:
    print(
        f"level {record.level}  {100 * record.density:.1f} %  {record.what}  "
        f"early stop {record.early_stop_step:,}  {record.at_early_stop[_ACCURACY]:.2f} %",
        file=sys.stderr,
        flush=True,
    )


def _report(title: str, tickets: Tickets, settings: TicketSettings) -> Report:
    """One row a level, the mean of each control's draws beside the ticket."""
    rows: list[dict[str, Value]] = []
    for level in tickets.levels:
        record = level.record
        row: dict[str, Value] = {
            "level": record.level,
            "density %": round(100 * record.density, 2),
            "kept": sum(record.kept.values()),
            "early-stop step": record.early_stop_step,
            "test % there": record.at_early_stop[_ACCURACY],
            "test % at the end": record.at_end[_ACCURACY],
        }
        for name in settings.controls:
            drawn = [c for c in tickets.controls if (c.what, c.level) == (name, record.level)]
            if drawn:
                row[f"{name}: step"] = statistics.mean(c.early_stop_step for c in drawn)
                row[f"{name}: test %"] = statistics.mean(c.at_early_stop[_ACCURACY] for c in drawn)
        rows.append(row)
    summary: dict[str, Value] = {
        "weights": tickets.levels[0].record.total,
        "steps of one training": settings.steps,
        "strategy": ("one-shot, " if settings.one_shot else "") + settings.strategy,
        "rewound to step": settings.rewind_step,
    }
    note = (
        "Early stop: the step of the least validation loss; a control has its own. "
        "One seed: differences of a few tenths of a point say nothing."
    )
    return Report(title, summary, rows, notes=[note], sections=[tickets.report()])

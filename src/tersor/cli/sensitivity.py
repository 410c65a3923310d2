"""`tersor sensitivity`: how much each layer of a network matters, as a table and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from tersor.cli.door import guarded
from tersor.cli.networks import network_of
from tersor.cli.options import DataDir, Ignore, Json, OfModel, OfTask, PatternName, Seed
from tersor.cli.showing import show
from tersor.core.errors import ConfigError, MissingExtraError
from tersor.core.files import replacing
from tersor.core.report import Report, Value
from tersor.core.seeding import seed_everything
from tersor.core.tables import look_up
from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.prune import CRITERIA, FirstBatches, ScoringData, prune_
from tersor.prune.sensitivity import DENSITIES, Curves, Evaluate, by_sensitivity, sensitivity
from tersor.tasks import Task

_MEASURES = ("loss", "error")


@guarded
def sensitivity_command(
    file: Annotated[Path, typer.Argument(help="A trained network: .terse, .safetensors or .pt.")],
    densities: Annotated[
        str, typer.Option(metavar="LIST", help="What is kept of a layer while it is pruned.")
    ] = ",".join(f"{d:g}" for d in DENSITIES),
    criterion: Annotated[
        str, typer.Option(help=f"What is kept. One of: {', '.join(CRITERIA)}.")
    ] = "magnitude",
    pattern: PatternName = "element",
    measure: Annotated[
        str, typer.Option(help="What is measured on the validation set: loss, or error in %.")
    ] = "loss",
    density: Annotated[
        float | None,
        typer.Option(help="Also show how much to keep of each layer for this density of all."),
    ] = None,
    batches: Annotated[
        int, typer.Option(help="Training batches that a criterion looks at, if it looks at data.")
    ] = 1,
    ignore: Ignore = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves, .png or .svg.")
    ] = None,
    task: OfTask = None,
    model: OfModel = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Prune one layer at a time and show what that does to the network.

    All is measured on the validation set; the file is not changed, and the test set is not read.

    Examples:

      tersor train && tersor sensitivity digits-lenet-300-100-dense.terse

      tersor sensitivity net.terse --pattern row --density 0.3 --picture curves.png
    """
    asked = _numbers(densities)
    pyplot = None if picture is None else _plotting(picture)  # before anything is measured
    network, task_name, model_name, data = network_of(file, task, model, data_dir)
    judges: dict[str, Evaluate] = {name: partial(_judge, data, name) for name in _MEASURES}
    judge = look_up("measure", measure, judges)
    seed_everything(seed, "sensitivity")  # the order of the batches
    scoring = ScoringData(FirstBatches(data.train, batches), data.loss, seed)
    curves = sensitivity(
        network,
        judge,
        densities=asked,
        criterion=criterion,
        pattern=pattern,
        data=scoring,
        ignore=ignore or None,
    )
    head: dict[str, Value] = {
        "task": task_name,
        "model": model_name,
        "measured": "validation loss" if measure == "loss" else "validation error %",
    }
    plain = curves.report(f"Sensitivity of {file.name}")
    report = dataclasses.replace(plain, summary=head | dict(plain.summary))
    if density is not None:
        options = {"criterion": criterion, "pattern": pattern, "data": scoring}
        part = _allocated(network, judge, curves, density, options, ignore)
        report = dataclasses.replace(report, sections=[part])
    if picture is not None:
        _draw(pyplot, curves, str(head["measured"]), picture)
    show(report, as_json)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--densities {text!r}: expected numbers as 0.8,0.4,0.1") from None


def _judge(task: Task, measure: str, network: nn.Module) -> float:
    if measure == "loss":
        return mean_loss(network, task.validation, task.loss)
    return evaluate(network, task.validation, mistakes=task.mistakes).percent


def _allocated(
    network: nn.Module,
    judge: Evaluate,
    curves: Curves,
    density: float,
    options: dict[str, object],
    ignore: Sequence[str] | None,
) -> Report:
    """What each layer keeps at this density of all, and what the network is worth then."""
    masks, made = prune_(
        network,
        density,
        allocation=by_sensitivity(curves),
        ignore=ignore or None,
        **options,  # type: ignore[arg-type] # by name, as `sensitivity` was given them
    )
    rows = [{k: row[k] for k in ("name", "weights", "kept", "density")} for row in made.rows]
    summary: dict[str, Value] = {
        "density reached": masks.density,
        "nothing pruned": curves.dense,
        "all pruned": judge(network),
    }
    pairs = ",".join(f"{row['name']}={row['density']:.6g}" for row in rows)
    note = f"To prune so: tersor prune FILE --density {pairs}"
    return Report("Allocation of equal slopes", summary, rows, notes=[note])


def _plotting(path: Path) -> Any:
    """Matplotlib's pyplot without a screen, once the picture's name is found to be one.

    Raises:
        ConfigError: it ends in something else than .png or .svg.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"--picture {str(path)!r}: expected a name that ends in .png or .svg")
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("--picture", "matplotlib", "plots") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _draw(pyplot: Any, curves: Curves, measured: str, path: Path) -> None:
    """One line a layer: the measure against the share that is kept."""
    figure, place = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, curve in curves.layers.items():
        shares = [100 * kept / max(curve.groups, 1) for kept in curve.kept]
        place.plot(shares, curve.values, marker="o", markersize=3, label=name)
    place.axhline(curves.dense, color="grey", linestyle=":", label="nothing pruned")
    place.set(xscale="log", xlabel="kept of one layer, %", ylabel=measured)
    place.legend(fontsize=8)
    with replacing(path) as target:
        figure.savefig(target, dpi=120, format=path.suffix[1:])
    pyplot.close(figure)

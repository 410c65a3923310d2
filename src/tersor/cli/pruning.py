"""The command `tersor prune`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tersor.cli.door import guarded
from tersor.cli.networks import network_of, starting_network
from tersor.cli.options import DataDir, Json, Seed
from tersor.cli.showing import show_result
from tersor.compress import Prune, Recipe, compress
from tersor.core.errors import ConfigError
from tersor.prune import ALLOCATIONS, CRITERIA, REPAIRS, SCHEDULES
from tersor.tasks import MODELS, TASKS, load_task


def _choice(what: str, names: Any) -> Any:
    return typer.Option(help=f"{what} One of: {', '.join(names)}.")


@guarded
def prune_command(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A trained network: .terse, .safetensors or .pt; without it, fresh weights."
        ),
    ] = None,
    density: Annotated[
        str | None,
        typer.Option(
            metavar="DENSITY",
            help="The share of weights that are kept, 0.1, or one for each of some layers, "
            "fc1=0.05,fc2=0.1. May be left out for a pattern N:M.",
        ),
    ] = None,
    criterion: Annotated[str, _choice("What is kept.", CRITERIA)] = "magnitude",
    pattern: Annotated[
        str,
        typer.Option(
            help="What goes together: element, row, channel, kernel, head, layer, N:M (as 2:4), "
            "HxW (as 4x1)."
        ),
    ] = "element",
    allocation: Annotated[str, _choice("How much from where.", ALLOCATIONS)] = "global",
    schedule: Annotated[str, _choice("How the density falls.", SCHEDULES)] = "cubic",
    rounds: Annotated[
        int | None, typer.Option(help="Prunings. Default: 1, with --epochs 100.")
    ] = None,
    repair: Annotated[
        str | None, _choice("What the weights that stay make up for the others.", REPAIRS)
    ] = None,
    batches: Annotated[
        int, typer.Option(help="Training batches that criterion and repair look at.")
    ] = 1,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A layer to leave alone; may be given several times.")
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Epochs of training, in the first half of which it is pruned.")
    ] = 0,
    optimizer: Annotated[str, typer.Option(help="One of: adam, adamw, sgd.")] = "adam",
    learning_rate: Annotated[float, typer.Option(help="A number above 0.")] = 1e-3,
    task: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(TASKS)}. Default: what the .terse file says."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(MODELS)}. Default: what the .terse file says."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a training batch.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write. Default: TASK-MODEL-pruned.terse."),
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Prune a network, write it as a .terse file, and tell what it cost.

    At once, or with --epochs step by step while it is trained. The error before and after is that
    on the test set, which is read once, at the end. After an interrupt the same command goes on.

    Examples:

      tersor train && tersor prune digits-lenet-300-100-dense.terse --density 0.1 --epochs 5

      tersor prune net.terse --pattern 2:4 --criterion wanda --repair layerwise_obs --batches 8

      tersor prune --criterion snip --density 0.05 --schedule one_shot --epochs 20
    """
    step = Prune.read(
        {
            "density": _densities(density),
            "criterion": criterion,
            "pattern": pattern,
            "allocation": allocation,
            "schedule": schedule,
            "rounds": rounds,
            "repair": repair,
            "batches": batches,
            "ignore": ignore or [],
            "epochs": epochs,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
        },
        where="prune",
    )
    if file is None:
        names = {"task": task or "digits", "model": model or "lenet-300-100"}
        data = load_task(names["task"], data_dir=data_dir, batch_size=batch_size)
        network = starting_network(data, names["model"], seed, None)
    else:
        network, task, model, data = network_of(file, task, model, data_dir, batch_size)
        names = {"task": task, "model": model}
    out = out or Path(f"{names['task']}-{names['model']}-pruned.terse")
    result = compress(
        network, data, Recipe((step,), batch_size=batch_size), out=out, seed=seed, metadata=names
    )
    show_result(result, as_json, sections=1)


def _densities(text: str | None) -> float | dict[str, float] | None:
    """The density of an option: a number, or LAYER=DENSITY, ..."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.rpartition("=") for part in text.split(","))
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        raise ConfigError(
            f"--density {text!r}: expected a number as 0.1, or one for each of some layers as "
            "fc1=0.05,fc2=0.1"
        ) from None

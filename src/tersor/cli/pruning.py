"""The command `tersor prune`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tersor.cli.one_step import one_step, per_layer
from tersor.cli.options import PatternName
from tersor.compress import Prune
from tersor.prune import ALLOCATIONS, CRITERIA, REPAIRS, SCHEDULES


def _choice(what: str, names: Any) -> Any:
    return typer.Option(help=f"{what} One of: {', '.join(names)}.")


@one_step(Prune)
def prune_command(
    density: Annotated[
        str | None,
        typer.Option(
            metavar="DENSITY",
            help="The share of weights that are kept, 0.1, or one for each of some layers, "
            "fc1=0.05,fc2=0.1. May be left out for a pattern N:M.",
        ),
    ] = None,
    criterion: Annotated[str, _choice("What is kept.", CRITERIA)] = "magnitude",
    pattern: PatternName = "element",
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
    epochs: Annotated[
        int, typer.Option(help="Epochs of training, in the first half of which it is pruned.")
    ] = 0,
) -> dict[str, Any]:
    """Prune a network, write it as a .terse file, and tell what it cost.

    At once, or with --epochs step by step while it is trained. The error before and after is that
    on the test set, which is read once, at the end. After an interrupt the same command goes on.

    Examples:

      tersor train && tersor prune digits-lenet-300-100-dense.terse --density 0.1 --epochs 5

      tersor prune net.terse --pattern 2:4 --criterion wanda --repair layerwise_obs --batches 8

      tersor prune --criterion snip --density 0.05 --schedule one_shot --epochs 20
    """
    return {
        "density": per_layer("--density", density, float),
        "criterion": criterion,
        "pattern": pattern,
        "allocation": allocation,
        "schedule": schedule,
        "rounds": rounds,
        "repair": repair,
        "batches": batches,
        "epochs": epochs,
    }

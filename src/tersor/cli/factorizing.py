"""The command `tersor factorize`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tersor.cli.one_step import one_step, settings_of
from tersor.cli.options import MethodSettings
from tersor.compress import Factorize
from tersor.factorize import FACTORIZERS


@one_step(Factorize)
def factorize_command(
    method: Annotated[
        str, typer.Option(help=f"Into what. One of: {', '.join(FACTORIZERS)}.")
    ] = "svd",
    settings: MethodSettings = None,
    batches: Annotated[
        int, typer.Option(help="Training batches that a method looks at that needs inputs.")
    ] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of training afterwards.")] = 0,
) -> dict[str, Any]:
    """Replace layers of a network by products of smaller ones, write it, and tell what it cost.

    A layer whose factors would have as many weights is left as it is. The error before and after
    is that on the test set, which is read once, at the end. After an interrupt the same command
    goes on.

    Examples:

      tersor train && tersor factorize digits-lenet-300-100-dense.terse --set energy=0.8 --epochs 5

      tersor factorize net.terse --method tucker --select Conv2d --set budget=0.3 --epochs 10
    """
    return {
        "method": method,
        "settings": settings_of(settings),
        "batches": batches,
        "epochs": epochs,
    }

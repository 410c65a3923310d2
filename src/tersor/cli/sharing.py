"""The command `tersor share`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tersor.cli.one_step import one_step, settings_of
from tersor.cli.options import MethodSettings
from tersor.compress import Share
from tersor.share import SHARINGS


@one_step(Share)
def share_command(
    method: Annotated[
        str, typer.Option(help=f"What is shared. One of: {', '.join(SHARINGS)}.")
    ] = "hash",
    settings: MethodSettings = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training afterwards.")] = 0,
) -> dict[str, Any]:
    """Let several weights of a network be one, write it, and tell what it cost.

    The file holds what is shared once, and says how the network is put together again. The error
    before and after is that on the test set, which is read once, at the end. After an interrupt
    the same command goes on.

    Examples:

      tersor share --method hash --set density=0.125 --epochs 20

      tersor share net.terse --method soft --set components=16 --epochs 10
    """
    return {
        "method": method,
        "settings": settings_of(settings),
        "epochs": epochs,
    }

"""The command `tersor share`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated

import typer

from tersor.cli.door import guarded
from tersor.cli.one_step import do_step, settings_of
from tersor.cli.options import (
    BatchSize,
    DataDir,
    Ignore,
    Json,
    LearningRate,
    MethodSettings,
    NetworkFile,
    OfModel,
    OfTask,
    Optimizer,
    Out,
    Seed,
    Select,
)
from tersor.compress import Share
from tersor.share import SHARINGS


@guarded
def share_command(
    file: NetworkFile = None,
    method: Annotated[
        str, typer.Option(help=f"What is shared. One of: {', '.join(SHARINGS)}.")
    ] = "hash",
    settings: MethodSettings = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training afterwards.")] = 0,
    optimizer: Optimizer = "adam",
    learning_rate: LearningRate = 1e-3,
    select: Select = None,
    ignore: Ignore = None,
    task: OfTask = None,
    model: OfModel = None,
    batch_size: BatchSize = None,
    out: Out = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Let several weights of a network be one, write it, and tell what it cost.

    The file holds what is shared once, and says how the network is put together again. The error
    before and after is that on the test set, which is read once, at the end. After an interrupt
    the same command goes on.

    Examples:

      tersor share --method hash --set density=0.125 --epochs 20

      tersor share net.terse --method soft --set components=16 --epochs 10
    """
    step = Share.read(
        {
            "method": method,
            "settings": settings_of(settings),
            "epochs": epochs,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "select": select or [],
            "ignore": ignore or [],
        },
        where="share",
    )
    do_step(
        step,
        file,
        task=task,
        model=model,
        batch_size=batch_size,
        out=out,
        data_dir=data_dir,
        seed=seed,
        as_json=as_json,
    )

"""The command `tersor factorize`: one step of a recipe, with its settings as options."""

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
from tersor.compress import Factorize
from tersor.factorize import FACTORIZERS


@guarded
def factorize_command(
    file: NetworkFile = None,
    method: Annotated[
        str, typer.Option(help=f"Into what. One of: {', '.join(FACTORIZERS)}.")
    ] = "svd",
    settings: MethodSettings = None,
    batches: Annotated[
        int, typer.Option(help="Training batches that a method looks at that needs inputs.")
    ] = 8,
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
    """Replace layers of a network by products of smaller ones, write it, and tell what it cost.

    A layer whose factors would have as many weights is left as it is. The error before and after
    is that on the test set, which is read once, at the end. After an interrupt the same command
    goes on.

    Examples:

      tersor train && tersor factorize digits-lenet-300-100-dense.terse --set energy=0.8 --epochs 5

      tersor factorize net.terse --method tucker --select Conv2d --set budget=0.3 --epochs 10
    """
    step = Factorize.read(
        {
            "method": method,
            "settings": settings_of(settings),
            "batches": batches,
            "epochs": epochs,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "select": select or [],
            "ignore": ignore or [],
        },
        where="factorize",
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

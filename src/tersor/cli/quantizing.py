"""The command `tersor quantize`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated

import typer

from tersor.cli.door import guarded
from tersor.cli.one_step import do_step, per_layer, settings_of
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
from tersor.compress import Quantize
from tersor.quantize import QUANTIZERS, TRAININGS


@guarded
def quantize_command(
    file: NetworkFile = None,
    method: Annotated[
        str, typer.Option(help=f"Which values weights may take. One of: {', '.join(QUANTIZERS)}.")
    ] = "kmeans",
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="BITS",
            help="Bits of a weight's code, 4, or a number for each of some layers, conv1=8,fc1=5. "
            "Default: the method's.",
        ),
    ] = None,
    settings: MethodSettings = None,
    rounding: Annotated[
        str, typer.Option(help="One of: nearest, gptq (which looks at training batches).")
    ] = "nearest",
    activations: Annotated[
        int | None,
        typer.Option(help="Bits of what comes into the layers, too. Default: it stays float."),
    ] = None,
    batches: Annotated[
        int, typer.Option(help="Training batches that calibration and gptq look at.")
    ] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of training with quantized weights.")] = 0,
    training: Annotated[
        str | None,
        typer.Option(
            help=f"How they are trained, instead of --method. One of: {', '.join(TRAININGS)}."
        ),
    ] = None,
    optimizer: Optimizer = "adam",
    learning_rate: LearningRate = 1e-4,
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
    """Put the weights of a network on few values, write it, and tell what it cost.

    Zeros stay zeros. The values are plain floats in the network; the file holds codes of them where
    a tensor has few. The error before and after is that on the test set, which is read once, at the
    end. After an interrupt the same command goes on.

    Examples:

      tersor train && tersor quantize digits-lenet-300-100-dense.terse --bits 4

      tersor quantize net.terse --method affine --bits 8 --set granularity=channel --activations 8

      tersor quantize net.terse --method affine --bits 4 --set group=64 --rounding gptq

      tersor quantize net.terse --method product --set k=256 --set dimension=4 --epochs 5

      tersor quantize net.terse --training lsq --bits 3 --epochs 10 --learning-rate 0.001
    """
    step = Quantize.read(
        {
            "method": method,
            "bits": per_layer("--bits", bits, int),
            "settings": settings_of(settings),
            "rounding": rounding,
            "training": training,
            "activations": activations,
            "batches": batches,
            "epochs": epochs,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "select": select or [],
            "ignore": ignore or [],
        },
        where="quantize",
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

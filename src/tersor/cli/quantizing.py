"""The command `tersor quantize`: one step of a recipe, with its settings as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tersor.cli.one_step import one_step, per_layer, settings_of
from tersor.cli.options import MethodSettings
from tersor.compress import Quantize
from tersor.core.errors import ConfigError
from tersor.quantize import QUANTIZERS, SENSITIVITIES, TRAININGS


@one_step(Quantize, learning_rate=1e-4)
def quantize_command(
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
    budget: Annotated[
        float | None,
        typer.Option(
            help="Bits of a code on average, instead of --bits: each weight gets one of --widths."
        ),
    ] = None,
    widths: Annotated[
        str, typer.Option(metavar="LIST", help="Bits to choose from, with --budget.")
    ] = "2,3,4,6,8",
    sensitivity: Annotated[
        str,
        typer.Option(
            help=f"What says who needs bits, with --budget. One of: {', '.join(SENSITIVITIES)}."
        ),
    ] = "loss",
    settings: MethodSettings = None,
    rounding: Annotated[
        str, typer.Option(help="One of: nearest, gptq (which looks at training batches).")
    ] = "nearest",
    activations: Annotated[
        int | None,
        typer.Option(help="Bits of what comes into the layers, too. Default: it stays float."),
    ] = None,
    fold: Annotated[
        bool, typer.Option("--fold", help="First make batch norms part of the layers before them.")
    ] = False,
    equalize: Annotated[
        bool,
        typer.Option(
            "--equalize", help="First scale channels between layers so that ranges are even."
        ),
    ] = False,
    correct_biases: Annotated[
        bool,
        typer.Option("--correct-biases", help="Take the mean error of outputs from the biases."),
    ] = False,
    batches: Annotated[
        int,
        typer.Option(
            help="Training batches that calibration, gptq, biases and sensitivity look at."
        ),
    ] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of training with quantized weights.")] = 0,
    training: Annotated[
        str | None,
        typer.Option(
            help=f"How they are trained, instead of --method. One of: {', '.join(TRAININGS)}."
        ),
    ] = None,
) -> dict[str, Any]:
    """Put the weights of a network on few values, write it, and tell what it cost.

    Zeros stay zeros. The values are plain floats in the network; the file holds codes of them where
    a tensor has few. The error before and after is that on the test set, which is read once, at the
    end. After an interrupt the same command goes on.

    Examples:

      tersor train && tersor quantize digits-lenet-300-100-dense.terse --bits 4

      tersor quantize net.terse --method affine --bits 8 --set granularity=channel --activations 8

      tersor quantize net.terse --method affine --bits 4 --set group=64 --rounding gptq

      tersor quantize net.terse --method affine --budget 3 --sensitivity hawq_v2

      tersor quantize net.terse --method product --set k=256 --set dimension=4 --epochs 5

      tersor quantize net.terse --training lsq --bits 3 --epochs 10 --learning-rate 0.001
    """
    return {
        "method": method,
        "bits": per_layer("--bits", bits, int),
        "budget": budget,
        "widths": _whole_numbers(widths),
        "sensitivity": sensitivity,
        "settings": settings_of(settings),
        "rounding": rounding,
        "training": training,
        "activations": activations,
        "fold": fold,
        "equalize": equalize,
        "correct_biases": correct_biases,
        "batches": batches,
        "epochs": epochs,
    }


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--widths {text!r}: expected whole numbers as 2,4,8") from None

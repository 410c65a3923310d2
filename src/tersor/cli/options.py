"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersor.compress import recipe_names
from tersor.tasks import MODELS, TASKS

TaskName = Annotated[str, typer.Option("--task", help=f"One of: {', '.join(TASKS)}.")]
ModelName = Annotated[str, typer.Option("--model", help=f"One of: {', '.join(MODELS)}.")]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help=f"A YAML file, or one of: {', '.join(recipe_names())}. "
        "Default: the one for the task and the model.",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where the data files lie. Default: TERSOR_DATA, data."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same bytes.")]
NetworkFile = Annotated[
    Path | None,
    typer.Argument(
        help="A trained network: .terse, .safetensors or .pt; without it, fresh weights."
    ),
]
OfTask = Annotated[
    str | None,
    typer.Option("--task", help=f"One of: {', '.join(TASKS)}. Default: what the .terse file says."),
]
OfModel = Annotated[
    str | None,
    typer.Option(
        "--model", help=f"One of: {', '.join(MODELS)}. Default: what the .terse file says."
    ),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Samples a training batch.")]
Optimizer = Annotated[str, typer.Option("--optimizer", help="One of: adam, adamw, sgd.")]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="A number above 0.")]
PatternName = Annotated[
    str,
    typer.Option(
        "--pattern",
        help="What goes together: element, row, channel, kernel, head, layer, N:M (as 2:4), "
        "HxW (as 4x1).",
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        help="A layer, class name or re:pattern to take, and no others; may be given several "
        "times.",
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="A layer to leave alone; may be given several times."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="The file to write. Default: TASK-MODEL-STEP.terse."
    ),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A further setting of the method (docs say which); may be given several times.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Start from a trained network (.terse, .safetensors, .pt) and train none.",
    ),
]

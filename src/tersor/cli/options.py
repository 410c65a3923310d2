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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Start from a trained network (.terse, .safetensors, .pt) and train none.",
    ),
]

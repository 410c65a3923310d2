"""The command `tersor`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from tersor.cli.bench import bench_command
from tersor.cli.doctor import examine
from tersor.cli.door import EXIT_CODES, FAILED, guarded
from tersor.cli.factorizing import factorize_command
from tersor.cli.lottery import lottery_command
from tersor.cli.networks import network_of, starting_network
from tersor.cli.options import DataDir, Json, ModelName, RecipeFile, Seed, TaskName, Weights
from tersor.cli.packing import pack_command, unpack_command, verify_command
from tersor.cli.pruning import prune_command
from tersor.cli.quantizing import quantize_command
from tersor.cli.sensitivity import sensitivity_command
from tersor.cli.sharing import share_command
from tersor.cli.showing import show, show_result, show_text
from tersor.compress import Recipe, Result, Train, compress, read_recipe, recipe_for
from tersor.core.errors import ConfigError
from tersor.measure import mean_loss, measure
from tersor.store import accounting, inspect, load
from tersor.tasks import load_task
from tersor.version import __version__

app = typer.Typer(
    name="tersor",
    help="Train, prune, quantise, share and factorise networks, and ship them as files that are as "
    f"small as they claim. Try: tersor compress\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tersor {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command(name="compress")
@guarded
def compress_command(
    task: TaskName = "digits",
    model: ModelName = "lenet-300-100",
    recipe: RecipeFile = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write. Default: TASK-MODEL.terse."),
    ] = None,
    weights: Weights = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a network, prune it, share its weights, write a .terse file, and tell the truth.

    The file is read back bit for bit, and the test set is read once, at the end. Beside the file
    stands a folder FILE.run with the recipe, the log and the whole report. After an interrupt the
    same command goes on where it was.

    Examples:

      tersor compress

      tersor compress --task mnist --model lenet-5 --data-dir data --out lenet-5.terse
    """
    steps = read_recipe(recipe or recipe_for(task, model))
    if weights is not None:
        steps = steps.without_training()
    elif not any(isinstance(step, Train) for step in steps.steps):
        raise ConfigError("the recipe has no step 'train', so it needs a network: --weights FILE")
    show_result(_run(task, model, steps, out, weights, data_dir, seed), as_json, sections=2)


@app.command()
@guarded
def train(
    task: TaskName = "digits",
    model: ModelName = "lenet-300-100",
    recipe: RecipeFile = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write. Default: TASK-MODEL-dense.terse."),
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a network by the step 'train' of a recipe, and write it without any loss.

    compress --weights, evaluate, inspect and unpack take the file.
    """
    steps = read_recipe(recipe or recipe_for(task, model))
    if not isinstance(steps.steps[0], Train):
        raise ConfigError("the recipe has no step 'train'")
    only = Recipe((steps.steps[0],), steps.name, steps.batch_size)
    out = out or Path(f"{task}-{model}-dense.terse")
    show_result(_run(task, model, only, out, None, data_dir, seed), as_json, sections=1)


def _run(
    task_name: str,
    model_name: str,
    recipe: Recipe,
    out: Path | None,
    weights: Path | None,
    data_dir: str | None,
    seed: int,
) -> Result:
    task = load_task(task_name, data_dir=data_dir, batch_size=recipe.batch_size)
    network = starting_network(task, model_name, seed, weights)
    return compress(
        network,
        task,
        recipe,
        out=out or Path(f"{task_name}-{model_name}.terse"),
        seed=seed,
        metadata={"task": task_name, "model": model_name},
    )


app.command(name="prune")(prune_command)
app.command(name="quantize")(quantize_command)
app.command(name="share")(share_command)
app.command(name="factorize")(factorize_command)
app.command(name="sensitivity")(sensitivity_command)
app.command(name="lottery")(lottery_command)


@app.command(name="evaluate")
@guarded
def evaluate_command(
    file: Annotated[Path, typer.Argument(help="A network: .terse, .safetensors or .pt.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Default: what the .terse file says.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Default: what the .terse file says.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure a network: error on the test set, size, multiply-accumulates, latency, density."""
    network, task_name, model_name, data = network_of(file, task, model, data_dir)
    report = measure(
        network,
        example_input=data.example_input,
        loader=data.test,
        path=file,
        mistakes=data.mistakes,
    )
    head: dict[str, Any] = {"file": str(file), "task": task_name, "model": model_name}
    if data.perplexity:
        head["perplexity"] = math.exp(mean_loss(network, data.test, data.loss))
    if as_json:
        error = {"error": report.summary["error_percent"]}
        print(json.dumps(head | error | report.to_dict()["summary"] | {"rows": report.rows}))
    else:
        show_text(dataclasses.replace(report, title=str(file), summary=head | dict(report.summary)))


@app.command(name="inspect")
@guarded
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    paper: Annotated[
        bool, typer.Option("--paper", help="Decode it, and count as Deep Compression does, too.")
    ] = False,
    codecs: Annotated[
        bool,
        typer.Option("--codecs", help="Decode it; show entropies, and what other codecs take."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a .terse file holds: each tensor, its codec, and every byte accounted for."""
    report = inspect(file, codecs=codecs).report()
    if paper:
        report = dataclasses.replace(report, sections=[accounting(load(file), file)])
    show(report, as_json)


app.command(name="bench")(bench_command)
app.command(name="pack")(pack_command)
app.command(name="unpack")(unpack_command)
app.command(name="verify")(verify_command)


@app.command()
@guarded
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Examine the environment: torch, the C++ extension, CPU, compiler, data, known traps."""
    report, healthy = examine(data_dir)
    show(report, as_json)
    if not healthy:
        raise typer.Exit(FAILED)

"""From a network and a recipe to a file forty times smaller, and the truth about it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tersor.compress.checking import check
from tersor.compress.readback import fingerprint, verify
from tersor.compress.recipe import Recipe, read_recipe
from tersor.compress.result import Result
from tersor.compress.run import Run
from tersor.compress.structure import with_structure
from tersor.compress.workspace import Workspace
from tersor.core.errors import ConfigError, StorageError
from tersor.core.report import Report, Value
from tersor.measure import evaluate, file_bytes, mean_loss, measure, size
from tersor.store import accounting, save
from tersor.tasks import Task
from tersor.train import is_main_process, wait_for_everyone


def compress(
    model: nn.Module,
    task: Task,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe = "deep-compression",
    *,
    out: str | os.PathLike[str],
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> Result:
    """Make a network small by a recipe, in place, write it, read it back and measure it.

    Every choice is made on `task.validation`; `task.test` is read once, at the end. Beside the file
    stands a folder `<out>.run` with recipe, log and report. A run that was interrupted goes on
    where it was when it is started again with the same arguments and the same model.

    Args:
        model: the network, trained or not; without a step `train` it must be trained. It ends with
            the values of the file.
        task: the data, the loss, and what counts as a mistake.
        recipe: a file, the name of one of tersor's own, plain data or a `Recipe`.
        out: the file to write; it is replaced only when everything has gone well.
        seed: same seed, same bytes.
        metadata: a JSON object that is stored in the file.
        verbose: show progress on stderr.

    Raises:
        ConfigError: the recipe is wrong, does not fit the network, or a step would undo another.
        TrainingError: the loss is not finite.
        StorageError: the file cannot be written.
    """
    began = time.perf_counter()
    recipe, out = read_recipe(recipe), Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise StorageError(f"{out}: expected the name of a file in a folder that exists")
    check(model, recipe)
    digest = recipe.digest(task=task.name, seed=seed, start=fingerprint(model))
    space = Workspace(out.with_name(out.name + ".run"), digest, writes=is_main_process())
    wait_for_everyone()  # none looks for a state before an old one is gone
    space.write("recipe.yaml", recipe.to_yaml())
    run = Run(model, task, recipe, seed, space, verbose)
    try:
        run.go(began)
    except ConfigError:
        space.abandon()
        raise
    if is_main_process():
        save(model, space.candidate, metadata=with_structure(metadata, model))
        verify(model, space.candidate, _one_input(task, model))
        space.candidate.replace(out)
    wait_for_everyone()
    result = _conclude(run, out, digest, run.seconds_before + time.perf_counter() - began)
    space.finish(result.report)
    return result


def _conclude(run: Run, file: Path, digest: str, seconds: float) -> Result:
    """Read the test set, the one time, and put the report together."""
    task, both = run.task, (run.reference, run.model)
    reference, error = (evaluate(m, task.test, mistakes=task.mistakes) for m in both)
    stored, dense = file_bytes(file), size(run.reference).dense_bytes
    summary: dict[str, Value] = {
        "file": str(file),
        "file bytes": stored,
        "dense bytes": dense,
        "ratio": round(dense / stored, 2),
        "reference error %": reference.percent,
        "error %": error.percent,
        "test samples": error.samples,
        "seconds": round(seconds, 1),
        "seed": run.seed,
        "run": digest,
    }
    if task.perplexity:
        for name, network in zip(("reference perplexity", "perplexity"), both, strict=True):
            summary[name] = math.exp(mean_loss(network, task.test, task.loss))
    low, high = error.interval
    notes = [
        f"The error is {error.mistakes:,} of {error.samples:,} test samples (95 % interval "
        f"{low:.2f} to {high:.2f} %), {error.percent - reference.percent:+.2f} points against "
        "the reference. The file was read back bit for bit."
    ]
    steps = Report("Steps", rows=run.stages)
    measured = measure(run.model, example_input=_one_input(task, run.model), path=file)
    sections = [steps, accounting(run.model, file), measured, *run.reports]
    report = Report(f"tersor: {task.name}", summary, notes=notes, sections=sections)
    return Result(file, stored, dense, reference, error, seconds, run.seed, digest, report)


def _one_input(task: Task, model: nn.Module) -> Tensor:
    """A batch of one, on the device of the model."""
    device = next((p.device for p in model.parameters()), None)
    return task.example_input.to(device)

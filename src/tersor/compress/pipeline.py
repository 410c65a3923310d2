"""From a network and a recipe to a file forty times smaller, and the truth about it."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersor.compress.recipe import Prune, Quantize, Recipe, Step, Train, kind_of, read_recipe
from tersor.compress.workspace import Workspace
from tersor.core.errors import FormatError, StorageError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.measure import Error, evaluate, file_bytes, measure, size
from tersor.prune import GradualPruner, prune_
from tersor.quantize import Codebook, CodebookTuner, quantize_
from tersor.store import accounting, load, save
from tersor.tasks import Task
from tersor.train import fit, is_main_process, steps_per_epoch, wait_for_everyone


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        file: the `.terse` file.
        file_bytes: its size, as the operating system has it.
        dense_bytes: the plain tensors of the network, without any header.
        reference, compressed: mistakes on the test set, before and after.
        seconds: the whole run, interrupted parts included.
        seed: what decided everything random.
        digest: the name of the run, a hash of all that decides it.
        report: all of it, with a section for each step.
    """

    file: Path
    file_bytes: int
    dense_bytes: int
    reference: Error
    compressed: Error
    seconds: float
    seed: int
    digest: str
    report: Report

    @property
    def ratio(self) -> float:
        """Compression ratio: dense bytes / file bytes."""
        return self.dense_bytes / self.file_bytes

    @property
    def reference_error(self) -> float:
        """Percent of the test set that the network got wrong before."""
        return self.reference.percent

    @property
    def error(self) -> float:
        """Percent of the test set that the network of the file gets wrong."""
        return self.compressed.percent

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain data; errors in percent of the test set."""
        return {
            "file": str(self.file),
            "file_bytes": self.file_bytes,
            "dense_bytes": self.dense_bytes,
            "ratio": round(self.ratio, 3),
            "reference_error": self.reference_error,
            "error": self.error,
            "test_samples": self.compressed.samples,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "digest": self.digest,
            "report": self.report.to_dict(),
        }


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
        ConfigError: the recipe is wrong, or does not fit the network.
        TrainingError: the loss is not finite.
        StorageError: the file cannot be written.
    """
    began = time.perf_counter()
    recipe, out = read_recipe(recipe), Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise StorageError(f"{out}: expected the name of a file in a folder that exists")
    digest = recipe.digest(task=task.name, seed=seed, start=_fingerprint(model))
    space = Workspace(out.with_name(out.name + ".run"), digest, writes=is_main_process())
    wait_for_everyone()  # none looks for a state before an old one is gone
    space.write("recipe.yaml", recipe.to_yaml())
    run = _Run(model, task, recipe, seed, space, verbose)
    run.go(began)
    if is_main_process():
        save(model, out, metadata=metadata)
        _verify(model, out, task)
    wait_for_everyone()
    result = _conclude(run, out, digest, run.seconds_before + time.perf_counter() - began)
    space.finish(result.report)
    return result


def _fingerprint(model: nn.Module) -> str:
    """A hash of the names and bits that a run starts from."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bits(tensor).numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _verify(model: nn.Module, file: Path, task: Task) -> None:
    """Read the file back: every tensor has the same bits, and the network the same answers."""
    twin = load(file, into=copy.deepcopy(model))
    state, read = model.state_dict(), twin.state_dict()
    different = [name for name in state if not torch.equal(_bits(state[name]), _bits(read[name]))]
    if not different:
        inputs = task.example_input.to(next(model.parameters()).device)
        with torch.no_grad():
            if not torch.equal(_bits(model.eval()(inputs)), _bits(twin.eval()(inputs))):
                different = ["the logits"]
    if different:
        raise FormatError(f"{file}: read back, {', '.join(different)} differ from what was written")


def _conclude(run: _Run, file: Path, digest: str, seconds: float) -> Result:
    """Read the test set, the one time, and put the report together."""
    original = copy.deepcopy(run.model)
    original.load_state_dict(run.reference)
    task = run.task
    reference, error = (
        evaluate(m, task.test, mistakes=task.mistakes) for m in (original, run.model)
    )
    stored, dense = file_bytes(file), size(run.model).dense_bytes
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
    low, high = error.interval
    notes = [
        f"The error is {error.mistakes:,} of {error.samples:,} test samples (95 % interval "
        f"{low:.2f} to {high:.2f} %), {error.percent - reference.percent:+.2f} points against "
        "the reference. The file was read back bit for bit."
    ]
    steps = Report("Steps", rows=run.stages)
    inputs = task.example_input.to(next(run.model.parameters()).device)
    measured = measure(run.model, example_input=inputs, path=file)
    sections = [steps, accounting(run.model, file), measured, *run.reports]
    report = Report(f"tersor: {task.name}", summary, notes=notes, sections=sections)
    return Result(file, stored, dense, reference, error, seconds, run.seed, digest, report)


class _Run:
    """The network on its way through the steps, and what later steps need of earlier ones."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        seed: int,
        space: Workspace,
        verbose: bool,
    ) -> None:
        self.model, self.task, self.recipe, self.seed = model, task, recipe, seed
        self.space, self.verbose = space, verbose
        self.reference = copy.deepcopy(model.state_dict())
        self.masks: MaskSet | None = None
        self.codebooks: dict[str, Codebook] = {}
        self.reports: list[Report] = []
        self.stages: list[dict[str, Any]] = []
        self.seconds_before = 0.0  # of the parts of this run that were interrupted

    def go(self, began: float) -> None:
        """Do the steps that are not done yet."""
        state = self.space.load()
        done = 0 if state is None else self._resume(state)
        for number, step in enumerate(self.recipe.steps):
            if number < done:
                continue
            self.space.log.write(event="step", step=kind_of(step))
            self.reports += self._do(number, step)
            error = evaluate(self.model, self.task.validation, mistakes=self.task.mistakes)
            seconds = self.seconds_before + time.perf_counter() - began
            self.stages.append(
                {
                    "step": kind_of(step),
                    "density": self.masks.density if self.masks is not None else 1.0,
                    "validation error %": error.percent,
                    "seconds": round(seconds - sum(s["seconds"] for s in self.stages), 2),
                }
            )
            self.space.save(number, self._state(number + 1) | {"seconds": seconds})

    def _do(self, number: int, step: Step) -> list[Report]:
        if isinstance(step, Train):
            report = self._fit(number, step, [])
            self.reference = copy.deepcopy(self.model.state_dict())
            return [report]
        if isinstance(step, Prune):
            return self._prune(number, step)
        return self._quantize(number, step)

    def _prune(self, number: int, step: Prune) -> list[Report]:
        options: dict[str, Any] = {
            "criterion": step.criterion,
            "allocation": step.allocation,
            "ignore": step.ignore or None,
        }
        if step.epochs == 0:
            self.masks, report = prune_(self.model, step.density, **options)
            return [report]
        end = max(1, round(step.ramp * step.epochs * steps_per_epoch(self.task)))
        pruner = GradualPruner(
            self.model,
            step.density,
            end=end,
            every=max(1, end // step.rounds),
            schedule=step.schedule,
            **options,
        )
        report = self._fit(number, step, [pruner])
        self.masks = pruner.masks
        return [report, pruner.report()]

    def _quantize(self, number: int, step: Quantize) -> list[Report]:
        self.codebooks, report = quantize_(
            self.model,
            step.bits,
            masks=self.masks,
            init=step.init,
            seed=self.seed,
            ignore=step.ignore or None,
        )
        if step.epochs == 0:
            return [report]
        tuner = CodebookTuner(self.model, self.codebooks)
        return [report, self._fit(number, step, [tuner])]

    def _fit(self, number: int, step: Step, methods: list[Any]) -> Report:
        return fit(
            self.model,
            self.task,
            step,
            methods=methods,
            seed=self.seed,
            label=kind_of(step),
            checkpoint=self.space.checkpoint(number),
            log=self.space.log,
            verbose=self.verbose,
        )

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "done": done,
            "model": self.model.state_dict(),
            "reference": self.reference,
            "masks": None if self.masks is None else self.masks.state_dict(),
            "reports": [report.to_dict() for report in self.reports],
            "stages": self.stages,
        }

    def _resume(self, state: dict[str, Any]) -> int:
        try:
            self.model.load_state_dict(state["model"])
            self.reference = state["reference"]
            self.masks = None if state["masks"] is None else MaskSet(state["masks"])
            self.reports = [Report.from_dict(report) for report in state["reports"]]
            self.stages, self.seconds_before = state["stages"], state["seconds"]
            return int(state["done"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise FormatError(f"{self.space}: the state of another run ({error})") from error

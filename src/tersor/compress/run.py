"""The network on its way through the steps of a recipe."""

from __future__ import annotations

import copy
import time
from typing import Any

from torch import nn

from tersor.compress.recipe import Prune, Quantize, Recipe, Step, Train, kind_of
from tersor.compress.workspace import Workspace
from tersor.core.errors import FormatError
from tersor.core.hooks import Method
from tersor.core.masks import HeldMasks, MaskSet
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.prune import FirstBatches, GradualPruner, ScoringData, prune_
from tersor.quantize import CodebookTuner, KMeans, codebooks_of, quantize_
from tersor.tasks import Task
from tersor.train import fit, steps_per_epoch


class Run:
    """One run: the network, what later steps need of earlier ones, and what was reported."""

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
            methods: list[Method] = []
            if self.masks is not None:
                methods.append(HeldMasks(self.model, self.masks))
            report = self._fit(number, step, methods)
            if self.masks is None:
                self.reference = copy.deepcopy(self.model.state_dict())
            return [report]
        if isinstance(step, Prune):
            return self._prune(number, step)
        return self._quantize(number, step)

    def _prune(self, number: int, step: Prune) -> list[Report]:
        options: dict[str, Any] = {
            "criterion": step.criterion,
            "pattern": step.pattern,
            "allocation": step.allocation,
            "schedule": step.schedule,
            "data": ScoringData(
                FirstBatches(self.task.train, step.batches), self.task.loss, self.seed
            ),
            "ignore": step.ignore or None,
        }
        if step.epochs == 0:
            seed_everything(self.seed, "prune")  # decides the batches that are looked at
            self.masks, report = prune_(
                self.model, step.density, rounds=step.rounds or 1, repair=step.repair, **options
            )
            return [report]
        end = max(1, round(step.ramp * step.epochs * steps_per_epoch(self.task)))
        pruner = GradualPruner(
            self.model,
            step.density,
            end=end,
            every=max(1, end // (step.rounds or 100)),
            **options,
        )
        report = self._fit(number, step, [pruner])
        self.masks = pruner.masks
        return [report, pruner.report()]

    def _quantize(self, number: int, step: Quantize) -> list[Report]:
        by_selector = step.bits if isinstance(step.bits, dict) else {"": step.bits}
        quantizers = {s: KMeans(bits, step.init, self.seed) for s, bits in by_selector.items()}
        report = quantize_(
            self.model,
            quantizers if isinstance(step.bits, dict) else quantizers[""],
            masks=self.masks,
            ignore=step.ignore or None,
        )
        if step.epochs == 0:
            return [report]
        names = [str(row["name"]) for row in report.rows]
        codebooks = codebooks_of(self.model, select=names) if names else {}
        methods: list[Method] = [CodebookTuner(self.model, codebooks)]
        if self.masks is not None:  # what is pruned and not shared must stay pruned, too
            rest = {name: mask for name, mask in self.masks.items() if name not in codebooks}
            methods.append(HeldMasks(self.model, MaskSet(rest)))
        return [report, self._fit(number, step, methods)]

    def _fit(self, number: int, step: Step, methods: list[Method]) -> Report:
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

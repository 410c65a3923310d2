"""The network on its way through the steps of a recipe."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from tersor.compress.doing import ACTIONS
from tersor.compress.order import Structures, taken
from tersor.compress.recipe import Recipe
from tersor.compress.steps import Step, Train, kind_of
from tersor.compress.structure import restructure_, structure
from tersor.compress.workspace import Workspace
from tersor.core.errors import FormatError
from tersor.core.hooks import Method
from tersor.core.masks import HeldMasks, MaskSet
from tersor.core.report import Report
from tersor.measure import evaluate
from tersor.tasks import Task
from tersor.train import fit


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
        self.reference = copy.deepcopy(model)
        self.left = Structures()
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
            self.left.check(step, taken(self.model, step))
            reports, names = ACTIONS[type(step)](self, number, step)
            self.reports += reports
            self.left.add(step, names)
            if isinstance(step, Train) and not self.left.to_dict():
                self.reference = copy.deepcopy(self.model)
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

    def fit(
        self, number: int, step: Step, methods: Sequence[Method] = (), *, held: Sequence[str] = ()
    ) -> Report:
        """Train as a step says; what earlier steps have left stays.

        Args:
            number, step: of the recipe.
            methods: what acts on the network while it trains.
            held: weights whose zeros and values these methods hold themselves.
        """
        masks = {n: mask for n, mask in (self.masks or {}).items() if n not in held}
        rest = [HeldMasks(self.model, MaskSet(masks))] if masks else []
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        frozen = [
            parameters[name]
            for name in self.left.having("values")
            if name not in held and parameters[name].requires_grad
        ]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            return fit(
                self.model,
                self.task,
                step,
                methods=[*methods, *rest],
                seed=self.seed,
                label=kind_of(step),
                checkpoint=self.space.checkpoint(number),
                log=self.space.log,
                verbose=self.verbose,
            )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "done": done,
            "model": self.model.state_dict(),
            "structure": structure(self.model),
            "reference": self.reference.state_dict(),
            "left": self.left.to_dict(),
            "masks": None if self.masks is None else self.masks.state_dict(),
            "reports": [report.to_dict() for report in self.reports],
            "stages": self.stages,
        }

    def _resume(self, state: dict[str, Any]) -> int:
        try:
            restructure_(self.model, state["structure"])
            self.model.load_state_dict(state["model"])
            self.reference.load_state_dict(state["reference"])
            self.left = Structures(state["left"])
            self.masks = None if state["masks"] is None else MaskSet(state["masks"])
            self.reports = [Report.from_dict(report) for report in state["reports"]]
            self.stages, self.seconds_before = state["stages"], state["seconds"]
            return int(state["done"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise FormatError(f"{self.space}: the state of another run ({error})") from error

"""What each step of a recipe does to the network of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tersor.compress.quantizing import quantize
from tersor.compress.sharing import factorize, share
from tersor.compress.steps import Factorize, Prune, Quantize, Share, Step, Train
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.prune import FirstBatches, GradualPruner, ScoringData, prune_
from tersor.train import steps_per_epoch

if TYPE_CHECKING:
    from tersor.compress.run import Run

Done = tuple[list[Report], list[str]]
"""Reports, and the weights or layers that a step has taken."""


def train(run: Run, number: int, step: Train) -> Done:
    """Train the network as it is; what was pruned stays so."""
    return [run.fit(number, step)], []


def prune(run: Run, number: int, step: Prune) -> Done:
    """Prune at once, or while it is trained."""
    options: dict[str, Any] = {
        "criterion": step.criterion,
        "pattern": step.pattern,
        "allocation": step.allocation,
        "schedule": step.schedule,
        "data": ScoringData(FirstBatches(run.task.train, step.batches), run.task.loss, run.seed),
        "select": step.select or None,
        "ignore": step.ignore or None,
    }
    if step.epochs == 0:
        seed_everything(run.seed, "prune")  # decides the batches that are looked at
        run.masks, report = prune_(
            run.model, step.density, rounds=step.rounds or 1, repair=step.repair, **options
        )
        return [report], list(run.masks)
    end = max(1, round(step.ramp * step.epochs * steps_per_epoch(run.task)))
    pruner = GradualPruner(
        run.model, step.density, end=end, every=max(1, end // (step.rounds or 100)), **options
    )
    report = run.fit(number, step, [pruner])
    run.masks = pruner.masks
    return [report, pruner.report()], list(run.masks)


ACTIONS: dict[type[Step], Callable[[Run, int, Any], Done]] = {
    Train: train,
    Prune: prune,
    Quantize: quantize,
    Share: share,
    Factorize: factorize,
}
"""Settings of a step to what is done."""

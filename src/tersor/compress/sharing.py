"""The steps `share` and `factorize` of a recipe: another structure, then training."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from tersor.compress.steps import Factorize, Share
from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.core.tables import made
from tersor.factorize import FACTORIZERS, factorize_
from tersor.prune import FirstBatches
from tersor.share import SHARINGS

if TYPE_CHECKING:
    from tersor.compress.run import Run

Done = tuple[list[Report], list[str]]

_RANKS = ("rank", "energy", "budget", "force")
"""Settings of factorization itself; the others are the method's."""


def share(run: Run, number: int, step: Share) -> Done:
    """Let weights be one at once, then train; or, by a prior, while it trains."""
    maker = SHARINGS[step.method]
    known = inspect.signature(maker).parameters
    given: dict[str, Any] = {"model": run.model, **step.settings}
    for name, value in (("select", step.select), ("ignore", step.ignore)):
        if value:
            if name not in known:
                raise ConfigError(
                    f"share: method {step.method!r} takes no {name!r}, see its settings"
                )
            given[name] = value
    if "seed" in known:
        given.setdefault("seed", run.seed)
    if "data" in known:
        seed_everything(run.seed, "share")  # decides the batches that are looked at
        given.setdefault("data", FirstBatches(run.task.train, step.batches))
    if isinstance(maker, type):
        return _while_training(run, number, step, given)
    report: Report = made("method", step.method, SHARINGS, given)
    return _then_trained(run, number, step, report)


def _while_training(run: Run, number: int, step: Share, given: dict[str, Any]) -> Done:
    if step.epochs == 0:
        raise ConfigError(
            f"share: method {step.method!r} acts while training; expected epochs, 1 or more"
        )
    method = made("method", step.method, SHARINGS, given)
    # Until the end no epoch has the values that it is for, so none is the best.
    trained = run.fit(number, step.model_copy(update={"keep": "last"}), [method])
    report = method.harden_()
    return [trained, report], _names(report)


def factorize(run: Run, number: int, step: Factorize) -> Done:
    """Replace layers by products, then train."""
    seed_everything(run.seed, "factorize")  # decides the batches that are looked at
    settings = {k: v for k, v in step.settings.items() if k not in _RANKS}
    report = factorize_(
        run.model,
        method=made("method", step.method, FACTORIZERS, settings),
        data=FirstBatches(run.task.train, step.batches),
        select=step.select or None,
        ignore=step.ignore or None,
        seed=run.seed,
        **{k: v for k, v in step.settings.items() if k in _RANKS},
    )
    return _then_trained(run, number, step, report)


def _then_trained(run: Run, number: int, step: Share | Factorize, report: Report) -> Done:
    return [report, *([run.fit(number, step)] if step.epochs else [])], _names(report)


def _names(report: Report) -> list[str]:
    """The weights that a report tells of, those that others have become too."""
    return [str(row[key]) for row in report.rows for key in ("name", "is") if key in row]

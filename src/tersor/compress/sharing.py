"""The steps `share` and `factorize` of a recipe: another structure, then training."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from tersor.compress.steps import Factorize, Share
from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.core.tables import check_made, made
from tersor.factorize import FACTORIZERS, factorize_
from tersor.factorize.transform import check_wanted
from tersor.prune import FirstBatches
from tersor.share import SHARINGS

if TYPE_CHECKING:
    from tersor.compress.run import Run

Done = tuple[list[Report], list[str]]


def check_share(model: nn.Module | None, step: Share) -> None:
    """Refuse what cannot work, before anything is trained.

    Args:
        model: as it will be when it is the step's turn, to try it on a copy; None if that is not
            known yet, and then the settings alone are checked.

    Raises:
        ConfigError: settings that the method or the network refuses.
    """
    if isinstance(SHARINGS[step.method], type) and step.epochs == 0:
        raise ConfigError(
            f"share: method {step.method!r} acts while training; expected epochs, 1 or more"
        )
    given = _given(model, step, 0)
    check_made("method", step.method, SHARINGS, given)
    looks = "data" in inspect.signature(SHARINGS[step.method]).parameters
    if model is not None and not looks:
        made("method", step.method, SHARINGS, given | {"model": copy.deepcopy(model)})


def check_factorize(model: nn.Module | None, step: Factorize) -> None:
    """Refuse what cannot work, before anything is trained; arguments as those of `check_share`.

    Raises:
        ConfigError: settings that the method or the network refuses.
    """
    own = inspect.signature(factorize_).parameters
    taken = [name for name in _FROM_STEP if name in step.settings]
    if taken:
        raise ConfigError(f"factorize: settings has {taken[0]!r}, which is a key of the step")
    of_method = {name: value for name, value in step.settings.items() if name not in own}
    made("method", step.method, FACTORIZERS, of_method)
    check_wanted(*(step.settings.get(name) for name in ("rank", "energy", "budget")))


_FROM_STEP = ("model", "method", "data", "batches", "example", "select", "ignore", "seed")
"""Arguments of `factorize_` that a step gives by itself."""


def share(run: Run, number: int, step: Share) -> Done:
    """Let weights be one at once, then train; or, by a prior, while it trains."""
    maker = SHARINGS[step.method]
    given = _given(run.model, step, run.seed)
    if "data" in inspect.signature(maker).parameters:
        seed_everything(run.seed, "share")  # decides the batches that are looked at
        given.setdefault("data", FirstBatches(run.task.train, step.batches))
    if isinstance(maker, type):
        return _while_training(run, number, step, given)
    report: Report = made("method", step.method, SHARINGS, given)
    return _then_trained(run, number, step, report)


def _given(model: nn.Module | None, step: Share, seed: int) -> dict[str, Any]:
    """The arguments of a way to share."""
    known = inspect.signature(SHARINGS[step.method]).parameters
    given: dict[str, Any] = {"model": model, **step.settings}
    for name, value in (("select", step.select), ("ignore", step.ignore)):
        if value:
            if name not in known:
                raise ConfigError(
                    f"share: method {step.method!r} takes no {name!r}, see its settings"
                )
            given[name] = value
    if "seed" in known:
        given.setdefault("seed", seed)
    return given


def _while_training(run: Run, number: int, step: Share, given: dict[str, Any]) -> Done:
    method = made("method", step.method, SHARINGS, given)
    # Until the end no epoch has the values that it is for, so none is the best.
    trained = run.fit(number, step.model_copy(update={"keep": "last"}), [method])
    report = method.harden_()
    return [trained, report], _names(report)


def factorize(run: Run, number: int, step: Factorize) -> Done:
    """Replace layers by products, then train."""
    seed_everything(run.seed, "factorize")  # decides the batches that are looked at
    report = factorize_(
        run.model,
        method=step.method,
        data=FirstBatches(run.task.train, step.batches),
        select=step.select or None,
        ignore=step.ignore or None,
        seed=run.seed,
        **step.settings,
    )
    return _then_trained(run, number, step, report)


def _then_trained(run: Run, number: int, step: Share | Factorize, report: Report) -> Done:
    return [report, *([run.fit(number, step)] if step.epochs else [])], _names(report)


def _names(report: Report) -> list[str]:
    """The weights that a report tells of, those that others have become too."""
    return [str(row[key]) for row in report.rows for key in ("name", "is") if key in row]

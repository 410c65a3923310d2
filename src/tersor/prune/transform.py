"""Prune at once, in place: in one round or in several, with what a caller does between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.prune.allocation import Allocation, kept_count
from tersor.prune.patterns import Pattern, Unit, density_of, pattern_of
from tersor.prune.ranking import Densities, Ranking
from tersor.prune.repair import REPAIRS, Repair
from tersor.prune.schedules import SCHEDULES, Schedule
from tersor.prune.scoring import Criterion, Data, as_scoring_data

Density = float | Mapping[str, float] | None
"""The kept share of all weights together, or one for each selector (what none names stays); None
for a pattern that says it itself ("2:4")."""

Between = Callable[[nn.Module, MaskSet], None]
"""What is done with a model between two rounds, with the masks that it has then."""


def prune_(
    model: nn.Module,
    density: Density = None,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    allocation: str | Allocation = "global",
    rounds: int = 1,
    schedule: str | Schedule = "geometric",
    between: Between | None = None,
    repair: str | Repair | None = None,
    masks: MaskSet | None = None,
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[MaskSet, Report]:
    """Set the least important weights to zero, in place, and say which are kept.

    Exactly `round(density * n)` weights stay, ties by index; where a pattern removes groups, as
    many whole groups as that allows. The zeros stay through training only while the masks are
    attached: `with masks.attach(model, optimizer)`.

    Args:
        model: changed in place.
        density: kept / prunable weights, 0 < density <= 1; or one density for each of some
            selectors ({"fc1": 0.08, "fc2": 0.09}), and then `allocation` has no say. May be left
            out for "N:M", which means N / M.
        criterion: a name of `CRITERIA`, or a function `(model, ScoringData) -> {name: scores}`.
        pattern: what is removed together: a name of `PATTERNS`, "N:M" (of M inputs N are kept),
            "HxW" (a block), or a function.
        allocation: a name of `ALLOCATIONS`, or a function `(groups, density) -> {name: count}`.
        rounds, schedule: in so many rounds of scoring and pruning, at the densities of the
            schedule; 100 rounds "geometric" make SynFlow of the criterion synflow.
        between: called after each round but the last: fine-tuning, with the masks attached.
        repair: changes the weights that are kept, to make up for the others: a name of `REPAIRS`
            or a function `(model, masks, ScoringData) -> None`. It sees the weights before those
            that go are zero.
        masks: to begin with; what they do not keep is zero from then on.
        data: batches, or `ScoringData`, for criteria and repairs that look at data.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        The masks and a report.

    Raises:
        ConfigError: a density is out of range, a name is unknown, the pattern fits no weight, a
            weight would be left empty.

    >>> model = nn.Linear(10, 10)
    >>> masks, report = prune_(model, 0.2)
    >>> int((model.weight != 0).sum()), masks.density
    (20, 0.2)
    """
    if rounds < 1:
        raise ConfigError(f"rounds: {rounds}; expected 1 or more")
    units, weights, densities, skipped = resolve(
        model, density, pattern=pattern, select=select, ignore=ignore
    )
    scoring = as_scoring_data(data)
    ranking = Ranking.named(units, criterion, allocation, scoring)
    falls = look_up("schedule", schedule, SCHEDULES)
    mend = look_up("repair", repair, REPAIRS) if repair is not None else None
    now = None if masks is None else _restricted(masks, weights)
    begin = 1.0 if now is None else now.density
    for number in range(1, rounds + 1):
        now = ranking.masks(model, now, _at(falls, number, rounds, densities, begin))
        if mend is not None:
            mend(model, now, scoring)
        now.apply(model)
        if between is not None and number < rounds:
            between(model, now)
    assert now is not None  # there is at least one round
    return now, describe(weights, now, skipped, densities)


def resolve(
    model: nn.Module,
    density: Density,
    *,
    pattern: str | Pattern = "element",
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[list[Unit], list[Weight], Densities, dict[str, str]]:
    """What is ranked, the weights in it, a checked density for all or each, and what is skipped.

    Raises:
        ConfigError: a density is out of range or missing, the pattern is unknown or fits no
            weight, or two selectors name the same weight differently.
    """
    weights, skipped = survey(model, select=select, ignore=ignore)
    if density is None:
        density = density_of(pattern)
        if density is None:
            raise ConfigError("density: is missing; expected 0 < density <= 1, or a pattern N:M")
    densities: Densities
    if isinstance(density, Mapping):
        for value in density.values():
            kept_count(0, value)
        densities = assign(model, density, weights, what="density")
        skipped |= {w.name: "no density given" for w in weights if w.name not in densities}
        weights = [weight for weight in weights if weight.name in densities]
    else:
        kept_count(0, density)
        densities = density
    units, unfit = pattern_of(pattern)(weights)
    if not units:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(unfit.items())[:3])
        raise ConfigError(f"pattern {pattern!r}: fits no weight ({reasons})")
    skipped |= {name: f"pattern {pattern}: {reason}" for name, reason in unfit.items()}
    return units, [w for w in weights if w.name not in unfit], densities, skipped


def describe(
    weights: list[Weight], masks: MaskSet, skipped: Mapping[str, str], densities: Densities
) -> Report:
    """The report on some masks, asked and reached."""
    asked = "per layer" if isinstance(densities, dict) else densities
    return Report(
        "Pruning",
        {"density asked": asked, "density reached": masks.density, "kept": masks.kept},
        masks.rows(weights),
        skipped,
    )


def _restricted(masks: MaskSet, weights: list[Weight]) -> MaskSet:
    """The masks of just these weights; one that has none keeps all."""
    full = MaskSet.full(weights)
    for weight in weights:
        if weight.name in masks and masks[weight.name].shape != weight.shape:
            raise ConfigError(
                f"masks: {weight.name!r} has shape {tuple(masks[weight.name].shape)}, "
                f"but the weight has {tuple(weight.shape)}"
            )
    return MaskSet({name: masks.get(name, mask) for name, mask in full.items()})


def _at(
    schedule: Schedule, number: int, rounds: int, densities: Densities, begin: float
) -> Densities:
    """The densities of a round; with one round, or in the last, those that were asked for."""
    if number == rounds:
        return densities
    window = {"start": 0, "end": rounds}
    if isinstance(densities, dict):
        return {
            n: schedule(number, final=d, initial=max(begin, d), **window)
            for n, d in densities.items()
        }
    return schedule(number, final=densities, initial=max(begin, densities), **window)

"""Replace layers of a network by their factors, in place, and fold them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.feeding import feed
from tersor.core.layer_inputs import watching_inputs
from tersor.core.report import Report, Value
from tersor.core.tables import made
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.factorize.factorizer import Factorizer, Rank
from tersor.factorize.factorizers import FACTORIZERS
from tersor.factorize.factors import Factors, replace
from tersor.factorize.multiplying import macs_ratio
from tersor.factorize.racing import inputs_of, speed_up
from tersor.factorize.ranks import ESTIMATE, Site, by_budget, by_energy, by_estimate, given
from tersor.factorize.recurrent import WeightFactors, put_, take_back_, takes
from tersor.factorize.refusing import layer_of, refusal

ENERGY = 0.9
"""The share of the squared weights that is kept, where nothing else is asked for."""


def factorize_(
    model: nn.Module,
    rank: int | str | Mapping[str, int | tuple[int, ...]] | None = None,
    *,
    method: str | Factorizer = "svd",
    energy: float | None = None,
    budget: float | None = None,
    data: Iterable[Any] | None = None,
    batches: int | None = None,
    example: Any = None,
    force: bool = False,
    select: Selectors = None,
    ignore: Selectors = None,
    seed: int = 0,
    **settings: Any,
) -> Report:
    """Replace layers by sequences of smaller ones whose product is nearly their weight, in place.

    A layer whose factors would have as many weights stays as it is, and so does one that the
    factors would not be faster than, where `example` is given.

    Args:
        model: changed in place, `fold_` turns it back.
        rank: a number, "vbmf" for an estimate, or a rank for each of some selectors (a tuple
            where the method has several numbers), and then what none of them names is left alone.
        method: a name of `FACTORIZERS`, with `settings`, or a factorizer of your own.
        energy: instead of `rank`: the share of the squared weights that is kept; 0.9 by default.
        budget: instead of `rank`: the share of the weights of all chosen layers together.
        data: batches for a method that looks at inputs; the first `batches` of them are used.
        example: one batch of inputs: both forms of each layer are timed on it.
        force: factorize also where nothing is gained.
        select, ignore: which weights take part, as in `tersor.core.prunable`.
        seed: of what is random.
        settings: of the method.

    Returns:
        A report: for each layer rank, break-even rank, weights before and after, relative error.

    Raises:
        ConfigError: more than one of rank, energy and budget, one out of range, a method or
            setting that is unknown, or no data for a method that needs it.
        MissingExtraError: TensorLy is needed and not installed.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    >>> report = factorize_(model, 4)
    >>> [tuple(layer.weight.shape) for layer in model[0]], report.rows[0]["break-even rank"]
    ([(4, 64), (64, 4)], 31)
    """
    factorizer = _factorizer(method, settings)
    check_wanted(rank, energy, budget)
    weights, skipped = survey(model, select=select, ignore=ignore)
    sites = []
    for weight in weights:
        reason = refusal(model, weight, factorizer)
        if reason:
            skipped[weight.name] = reason
        else:
            sites.append(weight)
    moments = _moments(model, sites, data, batches) if factorizer.needs_inputs else {}
    for weight in sites:
        if factorizer.needs_inputs and weight.name not in moments:
            skipped[weight.name] = "its layer is not called as a module on this data"
    chosen = [
        Site(w.name, layer_of(w), factorizer, moments.get(w.name), recurrent=takes(w.module))
        for w in sites
        if w.name not in skipped
    ]
    ranks = _ranks(model, chosen, rank, energy, budget, weights, seed)
    made_factors: dict[str, tuple[Site, Factors | WeightFactors]] = {}
    rows: dict[str, dict[str, Value]] = {}
    for site in chosen:
        if site.name not in ranks:
            skipped[site.name] = "no rank given"
            continue
        before, after = site.weight.numel(), site.count(ranks[site.name])
        if after >= before and not force:
            skipped[site.name] = (
                f"rank {_shown(ranks[site.name])} has {after:,} weights, the layer {before:,}: "
                f"break-even is rank {_shown(_break_even(site))}"
            )
            continue
        if site.recurrent and example is not None and not force:
            skipped[site.name] = "its factors are multiplied out at each call, which is not faster"
            continue
        factors, row = _factorized(site, ranks[site.name], seed)
        made_factors[site.name], rows[site.name] = (site, factors), row
    if example is not None and made_factors:
        slower = _race(model, made_factors, example, rows, force)
        for name in slower:
            skipped[name] = f"factors are not faster: {rows[name]['speed-up']:.2f} times the layer"
            del made_factors[name], rows[name]
    for name, (_, factors) in made_factors.items():
        if isinstance(factors, WeightFactors):
            put_(model, name, factors)
        else:
            replace(model, name.rpartition(".")[0], factors)
    return _report(list(rows.values()), skipped, made_factors, timed=example is not None)


def fold_(model: nn.Module) -> Report:
    """Turn factors back into single layers with the product as weight, in place.

    >>> model = nn.Sequential(nn.Linear(16, 16))
    >>> _ = factorize_(model, 2)
    >>> report = fold_(model)
    >>> type(model[0]).__name__, report.summary["layers"]
    ('Linear', 1)
    """
    rows: list[dict[str, Value]] = []
    for name, factors in list(model.named_modules()):
        if isinstance(factors, WeightFactors):
            take_back_(model, name, factors)
        elif isinstance(factors, Factors):
            replace(model, name, factors.folded())
        else:
            continue
        rows.append({"name": name, "rank": _shown(factors.rank)})
    return Report("Folding", {"layers": len(rows)}, rows)


def _factorizer(method: str | Factorizer, settings: Mapping[str, Any]) -> Factorizer:
    if isinstance(method, str):
        return made("method", method, FACTORIZERS, settings)
    if settings:
        raise ConfigError(
            f"factorize: {', '.join(settings)} given beside a factorizer; set it there"
        )
    return method


def check_wanted(rank: object, energy: float | None, budget: float | None) -> None:
    """Check what is asked for, as far as no layer is needed for that.

    Raises:
        ConfigError: more than one is given, or one is out of range.
    """
    named = {"rank": rank, "energy": energy, "budget": budget}
    asked = [name for name, value in named.items() if value is not None]
    if len(asked) > 1:
        raise ConfigError(f"factorize: {' and '.join(asked)} given; expected one of them")
    if isinstance(rank, str) and rank != ESTIMATE:
        raise ConfigError(f"rank: {rank!r}; expected a number or {ESTIMATE!r}")
    for each in rank.values() if isinstance(rank, Mapping) else [rank]:
        for number in each if isinstance(each, list | tuple) else [each]:
            if isinstance(number, int | float) and number < 1:
                raise ConfigError(f"rank: {number}; expected a whole number of 1 or more")
    for name, share in (("energy", energy), ("budget", budget)):
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"{name}: {share}; expected 0 < {name} <= 1")


def _moments(
    model: nn.Module, weights: list[Weight], data: Iterable[Any] | None, batches: int | None
) -> dict[str, Tensor]:
    """Mean of x x^T of what comes into each layer, float64."""
    if data is None:
        raise ConfigError("factorize: this method looks at inputs of layers; expected data=")
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def take(weight: Weight, rows: Tensor) -> None:
        inputs = rows[0].double()  # one group
        product = inputs.T @ inputs
        sums[weight.name] = sums[weight.name] + product if weight.name in sums else product
        counts[weight.name] = counts.get(weight.name, 0) + len(inputs)

    with watching_inputs(model, weights, take):
        feed(model, data, batches=batches)
    return {name: total / counts[name] for name, total in sums.items()}


def _ranks(
    model: nn.Module,
    sites: list[Site],
    rank: object,
    energy: float | None,
    budget: float | None,
    weights: list[Weight],
    seed: int,
) -> dict[str, Rank]:
    if budget is not None:
        return by_budget(sites, budget) if sites else {}
    if rank is None:
        return by_energy(sites, ENERGY if energy is None else energy, seed)
    if rank == ESTIMATE:
        return by_estimate(sites)
    if isinstance(rank, Mapping):
        return given(sites, assign(model, dict(rank), weights, what="rank"))
    return given(sites, {site.name: rank for site in sites})


def _factorized(
    site: Site, rank: Rank, seed: int
) -> tuple[Factors | WeightFactors, dict[str, Value]]:
    weight = site.weight
    parts = site.factorizer.split(weight, rank, site.moment, seed)
    kind = WeightFactors if site.recurrent else Factors
    factors = kind(site.layer, site.factorizer, rank)
    factors.fill(site.layer, parts)
    error = (site.factorizer.product(parts) - weight).double().norm()
    norm = float(weight.double().norm())
    row: dict[str, Value] = {
        "name": site.name,
        "rank": _shown(rank),
        "largest rank": _shown(site.factorizer.most(site.layer)),
        "break-even rank": _break_even(site)[0] if len(rank) == 1 else _shown(_break_even(site)),
        "weights before": weight.numel(),
        "weights after": site.count(rank),
        "macs after / before": None if site.recurrent else macs_ratio(site.layer, factors),
        "relative error": float(error) / norm if norm else 0.0,
        "zeros before": int((weight == 0).sum()),
    }
    return factors, row


def _break_even(site: Site) -> Rank:
    """The largest rank, in proportion, with fewer weights than the layer."""
    return site.within(site.weight.numel() - 1)


def _race(
    model: nn.Module,
    candidates: Mapping[str, tuple[Site, Factors | WeightFactors]],
    example: Any,
    rows: dict[str, dict[str, Value]],
    force: bool,
) -> list[str]:
    """Time all; the names of those that are slower, unless forced."""
    layers = {name: site.layer for name, (site, _) in candidates.items()}
    inputs = inputs_of(model, layers, example)
    slower = []
    for name, (site, factors) in candidates.items():
        if name not in inputs:
            continue
        gain = speed_up(site.layer, factors, inputs[name])
        rows[name]["speed-up"] = round(gain, 3)
        if gain <= 1 and not force:
            slower.append(name)
    return slower


def _report(
    rows: list[dict[str, Value]],
    skipped: dict[str, str],
    taken: Mapping[str, tuple[Site, Factors | WeightFactors]],
    *,
    timed: bool,
) -> Report:
    before, after = (
        sum(int(row[f"weights {w}"] or 0) for row in rows) for w in ("before", "after")
    )
    notes = []
    if not rows:
        notes.append("No layer was factorized.")
    holes = [
        str(row["name"])
        for row in rows
        if 2 * int(row["zeros before"] or 0) > int(row["weights before"] or 0)
    ]
    if holes:
        notes.append(
            f"{', '.join(holes)}: most of the weight was zero, and its factors are dense. To keep "
            "zeros, factorize first and prune the factors."
        )
    slow = [
        f"{row['name']} ({ratio:.2f} times)"
        for row in rows
        if isinstance(ratio := row["macs after / before"], float) and ratio >= 1
    ]
    if slow:
        notes.append(
            f"{', '.join(slow)}: the factors multiply no less than the layer, so they are hardly "
            "faster."
        )
    recurrent = [name for name, (site, _) in taken.items() if site.recurrent]
    if recurrent:
        notes.append(
            f"{', '.join(recurrent)}: factors of recurrent layers are multiplied out at each call: "
            "smaller, not faster."
        )
    if rows and not timed:
        notes.append(
            "Speed was not measured, and fewer weights may be slower: example= keeps the faster."
        )
    summary: dict[str, Value] = {
        "layers": len(taken),
        "layers skipped": len(skipped),
        "weights before": before,
        "weights after": after,
    }
    return Report("Factorization", summary, rows, skipped, notes)


def _shown(rank: Rank) -> str:
    return ", ".join(map(str, rank))

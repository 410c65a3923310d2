"""How much a network suffers when one layer alone is pruned, and what that says about all layers.

e_l(n) is the loss, or the error, with n groups of layer l kept and all else as it was. If the
layers did not act on each other, the least sum of all e_l for a given total would be found where
all their slopes are equal; how far that is from true is a number, too.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.hulls import lower_hull
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation, Counts, Groups, kept_count
from tersor.prune.criteria import CRITERIA
from tersor.prune.patterns import Pattern, Unit
from tersor.prune.ranking import Ranking
from tersor.prune.scoring import Criterion, Data, Scores, as_scoring_data
from tersor.prune.transform import resolve

Evaluate = Callable[[nn.Module], float]
"""A model to its loss or its error on data that nothing is reported on: lower = better."""

DENSITIES = (0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Curve:
    """What one layer does to the whole network.

    Args:
        groups: of the layer; with the pattern "element" its weights.
        size: weights in each group.
        kept: groups kept, from all of them down.
        values: of `evaluate`, for each of them; the first is that of the network as it was.
    """

    groups: int
    size: int
    kept: tuple[int, ...]
    values: tuple[float, ...]

    def hull(self) -> list[tuple[int, float]]:
        """The corners of the largest convex curve below this one, from the fewest groups up."""
        return lower_hull(list(zip(self.kept, self.values, strict=True)))


@dataclass(frozen=True)
class Curves:
    """The curve of each layer.

    Args:
        layers: by the name of the weight, or of the unit that a pattern makes of several.
        densities: that were asked for.
        skipped: what has no curve, and why.
    """

    layers: Mapping[str, Curve]
    densities: tuple[float, ...]
    skipped: Mapping[str, str]

    @property
    def dense(self) -> float:
        """The value of the network as it was."""
        return next(iter(self.layers.values())).values[0]

    def report(self, title: str = "Sensitivity") -> Report:
        """A row for each layer, a column for each density."""
        rows = []
        for name, curve in self.layers.items():
            at = dict(zip(curve.kept, curve.values, strict=True))
            row: dict[str, Value] = {"name": name, "weights": curve.groups * curve.size}
            for density in self.densities:
                row[f"at {density:g}"] = at.get(_groups_at(curve.groups, density))
            rows.append(row)
        return Report(title, {"nothing pruned": self.dense}, rows, self.skipped)


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    densities: Sequence[float] = DENSITIES,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Curves:
    """The curve of each layer: `evaluate` with that layer alone pruned, to each density.

    Each layer is scored once, before anything is pruned. Afterwards every weight has the bits it
    had before, also if `evaluate` raises.

    Args:
        model: evaluated `1 + layers * densities` times.
        evaluate: the loss, or the error, on validation data: lower = better. The loss says more:
            the error does not move before a sample changes sides.
        densities: kept share of a layer, 0 < density <= 1; of a layer at least one group is kept.
        criterion, pattern, data, select, ignore: as in `prune_`.

    Raises:
        ConfigError: a density is out of range, a name is unknown, or a value is not finite.

    Source: Han, Pool, Tran and Dally 2015, arXiv 1506.02626, figure 6; Li et al. 2017, arXiv
    1608.08710, section 3.2.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.1]]))
    >>> _ = net[1].weight.data.fill_(1.0)
    >>> wrong = lambda net: (net(torch.tensor([1.0, 1.0])) - 1.1).abs().item()
    >>> curves = sensitivity(net, wrong, densities=[0.5])
    >>> {name: [round(v, 4) for v in curve.values] for name, curve in curves.layers.items()}
    {'0.weight': [0.0, 0.0], '1.weight': [0.0, 0.1]}
    """
    for density in densities:
        kept_count(0, density)
    units, scores, skipped = scored(model, criterion, pattern, data, select, ignore)
    dense = _value(evaluate, model, "the network as it is")
    layers = {}
    for unit in units:
        kept, values = [unit.count], [dense]
        can_be_kept = int((unit.gather(scores) != -torch.inf).sum())  # N:M leaves no more than N
        for density in sorted(set(densities), reverse=True):
            count = min(_groups_at(unit.count, density), can_be_kept)
            if count >= kept[-1]:
                continue
            with pruned(model, masks_of([unit], scores, {unit.name: count})):
                values.append(_value(evaluate, model, f"{unit.name!r} at density {density:g}"))
            kept.append(count)
        layers[unit.name] = Curve(unit.count, unit.size, tuple(kept), tuple(values))
    return Curves(layers, tuple(sorted(set(densities), reverse=True)), skipped)


def by_sensitivity(curves: Curves) -> Allocation:
    """Keep where it helps most: the allocation of the least sum of the curves, taken as convex.

    min sum_l e_l(n_l)  so that  sum_l n_l * size_l = total,   e_l the lower convex hull

    That is solved exactly, without a search for the Lagrange multiplier: the pieces of all hulls
    are taken in the order of their slopes, the steepest first, until the total is reached, and of
    the last piece a part. Its slope is the multiplier. No layer is pruned further than measured.

    Args:
        curves: of the layers that are to be pruned.

    Returns:
        An allocation for `prune_`; of another network, or below the densities that were measured,
        it raises a ConfigError.

    Source: Shoham and Gersho 1988, Efficient bit allocation for an arbitrary set of quantizers,
    with weights for bits.

    >>> kept = (8, 4, 2)
    >>> layers = {"a": Curve(8, 1, kept, (0, 0.1, 1)), "b": Curve(8, 1, kept, (0, 0, 0.2))}
    >>> curves = Curves(layers, (0.5, 0.25), {})
    >>> groups = {name: Groups.of(torch.ones(8)) for name in "ab"}
    >>> [by_sensitivity(curves)(groups, n / 16) for n in (4, 6, 8, 12)]
    [{'a': 2, 'b': 2}, {'a': 4, 'b': 2}, {'a': 4, 'b': 4}, {'a': 8, 'b': 4}]
    """

    def allocation(groups: Mapping[str, Groups], density: float) -> Counts:
        budget = kept_count(sum(g.weights for g in groups.values()), density)
        counts: Counts = {}
        pieces = []
        for name, group in groups.items():
            curve = curves.layers.get(name)
            if curve is None or (curve.groups, curve.size) != (group.count, group.size):
                raise ConfigError(
                    f"by_sensitivity: {name!r} has {group.count:,} groups of {group.size:,} "
                    f"weights, and there is no curve of such a layer; {_known(curves)}"
                )
            hull = curve.hull()
            counts[name] = hull[0][0]
            for (few, high), (many, low) in itertools.pairwise(hull):
                pieces.append(((low - high) / ((many - few) * group.size), name, many - few))
        left = budget - sum(counts[name] * groups[name].size for name in counts)
        if left < 0:
            least = (budget - left) / max(sum(g.weights for g in groups.values()), 1)
            raise ConfigError(
                f"by_sensitivity: density {density:g} is below what was measured, "
                f"at least {least:.3g}; measure smaller densities"
            )
        for _, name, count in sorted(pieces, key=lambda piece: piece[0]):
            more = min(count, left // groups[name].size)
            counts[name] += more
            left -= more * groups[name].size
        return counts

    return allocation


def interactions(
    model: nn.Module,
    evaluate: Evaluate,
    density: float,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """What two layers do together that they do not do alone, for each pair of layers.

    interaction(i, j) = e_ij - e_i - e_j,   e = evaluate(pruned) - evaluate(model)

    Above zero two layers can be pruned alone, but not both; what looks at one layer at a time, as
    `by_sensitivity` does, does not see it.

    Args:
        model: evaluated `1 + layers + pairs` times; afterwards every weight has its bits.
        evaluate: lower = better.
        density: of each pruned layer.
        criterion, pattern, data, select, ignore: as in `prune_`.

    Raises:
        ConfigError: as `sensitivity`.
    """
    kept_count(0, density)
    units, scores, skipped = scored(model, criterion, pattern, data, select, ignore)
    dense = _value(evaluate, model, "the network as it is")

    def rise(*chosen: Unit) -> float:
        counts = {unit.name: _groups_at(unit.count, density) for unit in chosen}
        with pruned(model, masks_of(chosen, scores, counts)):
            return _value(evaluate, model, f"{' and '.join(counts)} at {density:g}") - dense

    alone = {unit.name: rise(unit) for unit in units}
    rows: list[dict[str, Value]] = []
    for one, other in itertools.combinations(units, 2):
        both = rise(one, other)
        rows.append(
            {
                "first": one.name,
                "second": other.name,
                "first alone": alone[one.name],
                "second alone": alone[other.name],
                "both": both,
                "interaction": both - alone[one.name] - alone[other.name],
            }
        )
    summary = {"density of a layer": density, "nothing pruned": dense}
    return Report("Interactions of layers", summary, rows, skipped)


def scored(
    model: nn.Module,
    criterion: str | Criterion,
    pattern: str | Pattern,
    data: Data,
    select: Selectors,
    ignore: Selectors,
) -> tuple[list[Unit], Scores, dict[str, str]]:
    """What is ranked, its scores, made once, and what is skipped.

    Raises:
        ConfigError: a name is unknown, or the pattern fits no weight.
    """
    units, _, _, skipped = resolve(model, 1.0, pattern=pattern, select=select, ignore=ignore)
    scores = look_up("criterion", criterion, CRITERIA)(model, as_scoring_data(data))
    # A criterion may make its scores from the weights as they are when it is asked for them.
    names = [name for unit in units for name in unit.parts]
    return units, {name: scores[name].detach().clone() for name in names}, skipped


def masks_of(units: Sequence[Unit], scores: Scores, counts: Counts) -> MaskSet:
    """Masks that keep so many of the highest groups of each of some units."""
    ranking = Ranking(
        list(units), lambda model, data: scores, lambda groups, _: counts, as_scoring_data(None)
    )
    return ranking.masks(nn.Module(), None, 1.0)


@contextlib.contextmanager
def pruned(model: nn.Module, masks: MaskSet) -> Iterator[None]:
    """The model with these masks applied; afterwards each of the weights has its bits again."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = {name: parameters[name].detach().clone() for name in masks}
    try:
        masks.apply(model)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                parameters[name].copy_(weight)


def _groups_at(count: int, density: float) -> int:
    return max(1, kept_count(count, density)) if count else 0


def _value(evaluate: Evaluate, model: nn.Module, of: str) -> float:
    value = float(evaluate(model))
    if not math.isfinite(value):
        raise ConfigError(f"evaluate: {value} for {of}; expected a finite number, lower = better")
    return value


def _known(curves: Curves) -> str:
    sizes = (f"{n} ({c.groups:,} of {c.size:,})" for n, c in curves.layers.items())
    return f"known: {', '.join(sizes)}"

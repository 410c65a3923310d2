"""Greedy allocation: each round the layer that can spare some weights best gives them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation, kept_count
from tersor.prune.criteria import CRITERIA
from tersor.prune.patterns import Pattern, Unit
from tersor.prune.ranking import Ranking
from tersor.prune.schedules import geometric
from tersor.prune.scoring import Criterion, Data, as_scoring_data
from tersor.prune.search.fixed import fixed
from tersor.prune.sensitivity import Evaluate
from tersor.prune.transform import resolve

Tune = Callable[[nn.Module, MaskSet], None]
"""A few steps of training, with the masks attached."""


def greedy(
    model: nn.Module,
    evaluate: Evaluate,
    density: float,
    *,
    rounds: int = 20,
    tune: Tune | None = None,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[Allocation, Report]:
    """Which layer gives how much, found by trying: each round all layers propose the same cut.

    The proposal with the least value after a short training is carried out, and the next round
    begins with the weights it has then. So what layers do together is seen, unlike in
    `by_sensitivity`. A layer that has not as much left proposes what it has if no other can give
    the whole cut.

    Args:
        model: as it was afterwards, bit by bit.
        evaluate: lower = better; asked `layers` times a round.
        density: to be reached, exactly with the pattern "element".
        rounds: the weights that are left fall by the same factor in each.
        tune: trains a proposal before it is judged; None judges it as it is.
        criterion, pattern, data, select, ignore: as in `prune_`; scores are made anew each round.

    Returns:
        An allocation for `prune_` at this density, and what was given in each round.

    Raises:
        ConfigError: the density or the rounds are out of range, a value is NaN, or the layers
            cannot be made so small while each keeps a group.

    Source: Yang et al. 2018, arXiv 1804.03230 (NetAdapt), algorithm 1, with weights as the
    resource, which need no look-up table. Their long training at the end is the caller's.
    """
    if rounds < 1:
        raise ConfigError(f"greedy: rounds {rounds}; expected 1 or more")
    units, _, _, skipped = resolve(model, 1.0, pattern=pattern, select=select, ignore=ignore)
    units = [unit for unit in units if unit.count]
    score = look_up("criterion", criterion, CRITERIA)
    scoring = as_scoring_data(data)
    total = sum(unit.count * unit.size for unit in units)
    budget = kept_count(total, density)
    counts = {unit.name: unit.count for unit in units}
    sizes = {unit.name: unit.size for unit in units}
    masks: MaskSet | None = None
    rows: list[dict[str, Value]] = []
    with _restored(model):
        number = 0
        while (kept := sum(counts[name] * sizes[name] for name in counts)) > budget:
            number += 1
            share = geometric(min(number, rounds), start=0, end=rounds, final=density)
            goal = max(kept_count(total, share), budget)
            if kept <= goal:
                continue
            gifts = {unit.name: _gift(unit, counts[unit.name], kept - goal) for unit in units}
            most = max(min(gifts[name] * sizes[name], kept - goal) for name in gifts)
            if most == 0:
                raise ConfigError(
                    f"greedy: density {density:g} keeps {budget:,} weights, and {kept:,} are left "
                    f"with one group in each layer; expected a higher density"
                )
            scores = {name: t.detach().clone() for name, t in score(model, scoring).items()}
            best: tuple[float, str, MaskSet, list[Tensor]] | None = None
            for name, gift in gifts.items():
                if min(gift * sizes[name], kept - goal) < most:
                    continue
                proposed = counts | {name: counts[name] - gift}
                ranking = Ranking(units, lambda *_, s=scores: s, lambda *_, c=proposed: c, scoring)
                with _restored(model):
                    tried = ranking.masks(model, masks, 1.0)
                    tried.apply(model)
                    if tune is not None:
                        tune(model, tried)
                    value = float(evaluate(model))
                    if math.isnan(value):
                        raise ConfigError(f"greedy: evaluate gives NaN with less of {name!r}")
                    if best is None or value < best[0]:
                        best = (value, name, tried, [t.clone() for t in _tensors(model)])
            assert best is not None  # a gift of the greatest size was tried
            value, name, masks, state = best
            counts[name] -= gifts[name]
            _put_back(model, state)
            rows.append(
                {
                    "round": number,
                    "layer": name,
                    "weights given": gifts[name] * sizes[name],
                    "kept in all": kept - gifts[name] * sizes[name],
                    "value": value,
                }
            )
    summary = {"density asked": density, "density reached": _share(counts, sizes, total)}
    return fixed(counts), Report("Greedy allocation", summary, rows, skipped)


def _gift(unit: Unit, kept: int, cut: int) -> int:
    """The groups that a layer would give for a cut in weights, one group at least staying."""
    return min(math.ceil(cut / unit.size), kept - 1)


def _share(counts: dict[str, int], sizes: dict[str, int], total: int) -> float:
    return sum(counts[name] * sizes[name] for name in counts) / max(total, 1)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _put_back(model: nn.Module, state: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(_tensors(model), state, strict=True):
            tensor.copy_(value)


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Afterwards every parameter and buffer has its bits again, and every module its mode."""
    before = [tensor.clone() for tensor in _tensors(model)]
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        _put_back(model, before)
        for module, training in flags:
            module.training = training

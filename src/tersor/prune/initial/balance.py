"""Where a global cut would take the weights from: saliency by layer, and an alarm for collapse.

One cut through the scores of all layers compares their scales. Where those differ, as with badly
scaled first weights, whole layers vanish long before the last weight does.
"""

from __future__ import annotations

import copy
from functools import partial

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, prunable
from tersor.prune.allocation import kept_count
from tersor.prune.criteria import CRITERIA
from tersor.prune.schedules import Schedule
from tersor.prune.scoring import Criterion, Data, Lazily, as_scoring_data
from tersor.prune.selection import highest_of_all
from tersor.prune.transform import prune_


def layer_balance(
    model: nn.Module,
    density: float,
    *,
    criterion: str | Criterion = "snip",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Say what one global cut would leave of each layer; the model stays as it is.

    Args:
        model: looked at.
        density, criterion, data, select, ignore: as for `prune_`.

    Returns:
        A report: of each weight tensor its share of all saliency, the mean score, and how much of
        it would be kept. A layer of which nothing would be left has collapsed: the network would
        be constant. A note says so for each, where `prune_` would refuse.

    Raises:
        ConfigError: a density is out of range, or the criterion is unknown or lacks its data.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, section 4 (saliency by layer);
    layer collapse: Tanaka, Kunin, Yamins and Ganguli 2020, arXiv 2006.05467, section 3.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> _ = [nn.init.ones_(model[0].weight), nn.init.constant_(model[1].weight, 0.1)]
    >>> report = layer_balance(model, 0.5, criterion="magnitude")
    >>> [row["density"] for row in report.rows], report.summary["collapsed layers"]
    ([0.75, 0.0], 1)
    """
    weights = prunable(model, select=select, ignore=ignore)
    scores = look_up("criterion", criterion, CRITERIA)(model, as_scoring_data(data))
    total = sum(weight.parameter.numel() for weight in weights)
    budget = kept_count(total, density)
    chosen = Lazily({w.name: partial(scores.__getitem__, w.name) for w in weights})
    counts = highest_of_all(chosen, budget)
    sums = {name: score.double().abs().sum().item() for name, score in chosen.items()}
    saliency = sum(sums.values())
    rows: list[dict[str, Value]] = [
        {
            "name": weight.name,
            "weights": (size := weight.parameter.numel()),
            "share of saliency": sums[weight.name] / saliency if saliency else 0.0,
            "mean score": sums[weight.name] / max(size, 1),
            "kept": counts[weight.name],
            "density": counts[weight.name] / max(size, 1),
        }
        for weight in weights
    ]
    empty = [row["name"] for row in rows if row["weights"] and not row["kept"]]
    notes = [
        f"Layer collapse: nothing would be left of {name!r} at density {density:.6g}. Scale the "
        "first weights (orthogonal, or variance 1 / inputs), prune in rounds, or per layer"
        for name in empty
    ]
    summary = {"density": density, "kept": budget, "collapsed layers": len(empty)}
    return Report("Balance of layers", summary, rows, notes=notes)


def critical_density(
    model: nn.Module,
    *,
    criterion: str | Criterion = "snip",
    rounds: int = 1,
    schedule: str | Schedule = "geometric",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Find the fewest weights that a global cut can keep before a layer is empty, by bisection.

    Args:
        model: copied and pruned about log2(weights) times; it stays as it is.
        criterion, rounds, schedule, data, select, ignore: as for `prune_`.

    Returns:
        A report: the fewest weights kept, the density and the compression 1 / density, which is
        the critical compression. It is exact where masks are nested, as in one round. The best
        that any method can reach keeps one weight a layer.

    Raises:
        ConfigError: as `prune_` at density 1.

    Source: Tanaka, Kunin, Yamins and Ganguli 2020, arXiv 2006.05467, section 3 and figure 1.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> _ = [nn.init.ones_(model[0].weight), nn.init.constant_(model[1].weight, 0.1)]
    >>> critical_density(model, criterion="magnitude").summary["kept"]
    17
    """
    total = sum(w.parameter.numel() for w in prunable(model, select=select, ignore=ignore))

    def at(kept: int) -> None:
        prune_(
            copy.deepcopy(model),
            kept / total,
            criterion=criterion,
            rounds=rounds,
            schedule=schedule,
            data=data,
            select=select,
            ignore=ignore,
        )

    at(total)  # what else could be wrong is found here
    enough, too_few, reason = total, 0, "at least one weight must be kept"
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        try:
            at(middle)
        except ConfigError as error:  # a layer is empty
            too_few, reason = middle, str(error)
        else:
            enough = middle
    return Report(
        "Critical density",
        {
            "kept": enough,
            "density": enough / total,
            "compression": total / enough,
            "rounds": rounds,
        },
        notes=[f"With {too_few:,} weights: {reason}"],
    )


def collapsed(masks: MaskSet) -> list[str]:
    """The names of the tensors of which masks keep nothing.

    >>> import torch
    >>> collapsed(MaskSet({"a": torch.ones(2).bool(), "b": torch.zeros(2).bool()}))
    ['b']
    """
    return [name for name, mask in masks.items() if mask.numel() and not mask.any()]

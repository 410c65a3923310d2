"""Architecture sculpting: networks of different shapes, each pruned to the same number of weights.

So shapes are compared at equal size: a wide network pruned to the weights of a narrow one has
chosen its own architecture.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, prunable
from tersor.prune.allocation import Allocation
from tersor.prune.schedules import Schedule
from tersor.prune.scoring import Criterion, Data
from tersor.prune.transform import prune_


def sculpt_(
    models: Mapping[str, nn.Module],
    kept: int,
    *,
    criterion: str | Criterion = "snip",
    allocation: str | Allocation = "global",
    rounds: int = 1,
    schedule: str | Schedule = "geometric",
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, MaskSet], Report]:
    """Prune each of several networks, in place, to exactly the same number of weights.

    Args:
        models: by a name of yours, for the report.
        kept: weights that each of them keeps; biases and normalisation are not counted.
        criterion, allocation, rounds, schedule, data, select, ignore: as for `prune_`, for each.

    Returns:
        The masks of each network, and a report.

    Raises:
        ConfigError: a network has fewer weights than that, before any is changed; or as `prune_`.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, architecture sculpting.

    >>> nets = {"narrow": nn.Linear(10, 5), "wide": nn.Linear(10, 50)}
    >>> masks, report = sculpt_(nets, 40, criterion="magnitude")
    >>> {row["name"]: (row["kept"], row["density"]) for row in report.rows}
    {'narrow': (40, 0.8), 'wide': (40, 0.08)}
    """
    totals = {
        name: sum(w.parameter.numel() for w in prunable(model, select=select, ignore=ignore))
        for name, model in models.items()
    }
    for name, total in totals.items():
        if not 0 < kept <= total:
            raise ConfigError(
                f"sculpt_: {kept:,} weights to keep of {name!r}; expected 1 to {total:,}, "
                "the number that it has"
            )
    masks: dict[str, MaskSet] = {}
    sections = []
    for name, model in models.items():
        masks[name], report = prune_(
            model,
            kept / totals[name],
            criterion=criterion,
            allocation=allocation,
            rounds=rounds,
            schedule=schedule,
            data=data,
            select=select,
            ignore=ignore,
        )
        sections.append(report)
    rows: list[dict[str, Value]] = [
        {
            "name": name,
            "weights": totals[name],
            "kept": found.kept,
            "density": found.density,
            "least density of a layer": min(float(row["density"] or 0) for row in report.rows),
        }
        for (name, found), report in zip(masks.items(), sections, strict=True)
    ]
    return masks, Report("Sculpting", {"kept": kept}, rows, sections=sections)

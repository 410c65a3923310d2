"""Means with 95 % confidence intervals, and who is better than magnitude."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from running import table

Results = dict[tuple[str, str, float, str], list[float]]
"""(name, allocation, density, stage) to the test errors of the seeds, in percent."""

BASE = "magnitude"


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean, by Student's t."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    scale = statistics.stdev(values) / math.sqrt(len(values))
    return float(t.ppf(0.975, len(values) - 1)) * scale


def spread(values: Sequence[float]) -> str:
    """'2.10 ± 0.13': the mean and half the width of its 95 % confidence interval."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {interval(values):.2f}"


def gain(found: Results, key: tuple[str, str, float, str]) -> tuple[float, float]:
    """How much less error than magnitude, seed by seed: the mean and half the interval's width."""
    pairs = zip(found[(BASE, *key[1:])], found[key], strict=True)
    differences = [base - own for base, own in pairs]
    return statistics.mean(differences), interval(differences)


def names_of(found: Results) -> list[str]:
    return list(dict.fromkeys(name for name, allocation, *_ in found if allocation))


def densities_of(found: Results) -> list[float]:
    return list(dict.fromkeys(density for _, allocation, density, _ in found if allocation))


def summary(found: Results, allocation: str, stage: str) -> str:
    """A row for each criterion, the best at the density in the middle first."""
    densities = densities_of(found)
    middle = densities[len(densities) // 2]

    def error(name: str) -> float:
        return statistics.mean(found[name, allocation, middle, stage])

    rows = []
    for name in sorted(names_of(found), key=error):
        row = {"criterion": name}
        for density in densities:
            row[f"{density:.0%}"] = _cell(found, (name, allocation, density, stage))
        rows.append(row)
    return table(rows)


def _cell(found: Results, key: tuple[str, str, float, str]) -> str:
    values = found[key]
    emptied = int(sum(found[(*key[:3], "emptied")]))
    if emptied == len(values):
        return "a layer is emptied"
    text = spread(values) + (f" ({emptied} emptied)" if emptied else "")
    if key[0] == BASE:
        return text
    mean, half = gain(found, key)
    mark = " **+**" if mean > half else (" -" if mean < -half else "")
    return text + mark


def findings(found: Results, kind: str) -> str:
    """Who beats magnitude at how many densities, and loses to it at how many."""
    densities, rows = densities_of(found), []
    for name in names_of(found):
        if name == BASE:
            continue
        row = {kind: name}
        for allocation in ("global", "uniform"):
            for stage in ("plain", "tuned"):
                pairs = [gain(found, (name, allocation, d, stage)) for d in densities]
                better = sum(mean > half for mean, half in pairs)
                worse = sum(mean < -half for mean, half in pairs)
                row[f"{allocation}, {stage}"] = f"{better} better, {worse} worse"
        rows.append(row)
    dense = found["dense", "", 1.0, "plain"]
    about = f"Dense: {spread(dense)} % error. "
    return f"{about}Of {len(densities)} densities:\n\n{table(rows)}\n"

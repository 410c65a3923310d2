"""Means with 95 % confidence intervals, and who is better than magnitude."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from running import table

Results = dict[tuple[str, float, str], list[float]]
"""(name, density, stage) to the test errors of the seeds, in percent."""

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


def gain(found: Results, key: tuple[str, float, str]) -> tuple[float, float]:
    """How much less error than magnitude, seed by seed: the mean and half the interval's width."""
    pairs = zip(found[(BASE, *key[1:])], found[key], strict=True)
    differences = [base - own for base, own in pairs]
    return statistics.mean(differences), interval(differences)


def names_of(found: Results) -> list[str]:
    return list(dict.fromkeys(name for name, *_ in found if name != "dense"))


def described(found: Results) -> str:
    """The dense error, then a row for each criterion, the least error after tuning first."""
    densities = list(dict.fromkeys(density for name, density, _ in found if name != "dense"))
    middle = densities[len(densities) // 2]
    rows = []
    for name in sorted(names_of(found), key=lambda n: statistics.mean(found[n, middle, "tuned"])):
        row = {"criterion": name}
        for stage in ("plain", "tuned"):
            for density in densities:
                row[f"{density:.0%} {stage}"] = _cell(found, (name, density, stage))
        rows.append(row)
    dense = found["dense", 1.0, "plain"]
    return f"Dense: {spread(dense)} % error, {len(dense)} seeds.\n\n{table(rows)}"


def _cell(found: Results, key: tuple[str, float, str]) -> str:
    values = found[key]
    emptied = int(sum(found[(*key[:2], "emptied")]))
    if emptied == len(values):
        return "a layer is emptied"
    text = spread(values) + (f" ({emptied} emptied)" if emptied else "")
    if key[0] == BASE:
        return text
    mean, half = gain(found, key)
    mark = " **+**" if mean > half else (" -" if mean < -half else "")
    return text + mark

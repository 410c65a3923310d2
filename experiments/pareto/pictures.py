"""The picture of a network: error against bytes, and against latency, with the fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import front

COLOURS = {
    "float": "black",
    "pruned": "tab:orange",
    "codebook": "tab:blue",
    "integers": "tab:green",
    "few values": "tab:purple",
    "shared": "tab:brown",
    "factors": "tab:red",
    "several": "deeppink",
}


def draw(rows: Sequence[Mapping[str, Any]], error: str, path: Path, *, most: float) -> None:
    """Two panels; rows with an error above `most` are left out.

    Args:
        rows: name, family, bytes, latency, error of each method.
        error: label of the axis.
        path: where the picture goes.
        most: error that is still shown.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row["error"] <= most]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), dpi=80, constrained_layout=True)
    for axis, cost, label in zip(
        axes, ("bytes", "latency"), ("bytes of the file", "latency / that of dense"), strict=True
    ):
        for family, colour in COLOURS.items():
            of_it = [row for row in shown if row["family"] == family]
            if of_it:
                axis.scatter(
                    [row[cost] for row in of_it],
                    [row["error"] for row in of_it],
                    s=22,
                    color=colour,
                    label=family,
                    zorder=3,
                )
        best = front([row[cost] for row in shown], [row["error"] for row in shown])
        line = sorted(
            (row for row, on in zip(shown, best, strict=True) if on), key=lambda row: row[cost]
        )
        axis.plot(
            [row[cost] for row in line],
            [row["error"] for row in line],
            drawstyle="steps-post",
            color="grey",
            lw=1,
        )
        axis.set(xscale="log", xlabel=label, ylabel=error)
        axis.margins(x=0.12)
        _name(axis, line, cost)
        axis.grid(alpha=0.3, which="both")
        if cost == "latency":
            axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes[0].legend(fontsize=8, loc="upper right")
    figure.savefig(path)
    pyplot.close(figure)


def _name(axis: Any, line: Sequence[Mapping[str, Any]], cost: str) -> None:
    """Names of the points on the front, of those that are near each other of the first alone."""
    taken: list[tuple[float, float]] = []
    for row in line:
        x, y = axis.transAxes.inverted().transform(
            axis.transData.transform((row[cost], row["error"]))
        )
        if any(abs(x - a) < 0.25 and abs(y - b) < 0.05 for a, b in taken):
            continue
        taken.append((x, y))
        axis.annotate(
            row["name"],
            (row[cost], row["error"]),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=7,
        )

"""The picture: each criterion's error with its interval, as pruned and after tuning."""

from __future__ import annotations

import statistics
from pathlib import Path

from tables import Results, interval, names_of

DENSITIES = (0.1, 0.05)


def draw(found: Results, path: Path) -> None:
    """One panel a density; the criteria in the order of the last one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def error(name: str, density: float, stage: str) -> float:
        return statistics.mean(found[name, density, stage])

    names = sorted(names_of(found), key=lambda n: error(n, DENSITIES[-1], "tuned"), reverse=True)
    figure, axes = plt.subplots(1, len(DENSITIES), figsize=(9, 6), sharey=True)
    for axis, density in zip(axes, DENSITIES, strict=True):
        for stage, colour, label in (
            ("plain", "tab:orange", "as pruned"),
            ("tuned", "tab:blue", "after tuning"),
        ):
            values = [found[name, density, stage] for name in names]
            means = [statistics.mean(v) for v in values]
            halves = [interval(v) for v in values]
            low = [min(h, 0.9 * m) for h, m in zip(halves, means, strict=True)]
            axis.errorbar(
                *(means, range(len(names))),
                xerr=[low, halves],
                fmt="o",
                ms=4,
                c=colour,
                label=label,
            )
            base = means[names.index("magnitude")]
            axis.axvline(base, color=colour, lw=0.8, ls=":")
        dense = statistics.mean(found["dense", 1.0, "plain"])
        axis.axvline(dense, color="grey", lw=0.8)
        axis.set(xscale="log", xlabel="test error, %", title=f"{density:.0%} of the weights")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)

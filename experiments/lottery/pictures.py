"""The picture: accuracy and early-stop step against the share of weights that is kept."""

from __future__ import annotations

from pathlib import Path

from tersor.prune.lottery import Record

NAMES = {
    "ticket": "ticket",
    "one-shot": "one-shot ticket",
    "random-reinit": "its mask, new start",
    "random-mask": "its start, random mask",
}
ACCURACY = "test accuracy %"


def draw(found: list[Record], steps: int, path: Path) -> None:
    """Two curves side by side; bars reach from the least to the greatest of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), dpi=90, constrained_layout=True)
    values = (lambda r: r.at_early_stop[ACCURACY], lambda r: r.early_stop_step)
    titles = ("test accuracy at early stop, %", f"early-stop step (of {steps:,})")
    dense = [record for record in found if record.level == 0]
    for axis, value, title in zip(axes, values, titles, strict=True):
        for what, name in NAMES.items():
            levels = sorted({r.level for r in found if r.what == what or r.level == 0})
            means, below, above, x = [], [], [], []
            for level in levels:
                here = [value(r) for r in found if r.level == level and r.what == what]
                here = here or [value(r) for r in dense]
                mean = sum(here) / len(here)
                means.append(mean)
                below.append(mean - min(here))
                above.append(max(here) - mean)
                x.append(100 * next(r.density for r in found if r.level == level))
            axis.errorbar(x, means, [below, above], label=name, marker="o", ms=3, lw=1.2, capsize=2)
        axis.axhline(sum(map(value, dense)) / len(dense), color="grey", lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.invert_xaxis()
        ticks = [100, 51.3, 21.1, 13.5, 6.9, 3.6]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("weights kept, %")
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)

"""All methods on three networks: error against bytes of the file and latency, one table each.

    python experiments/pareto/run.py --data-dir DIR [--nets FOLDER] [--write]

The options `--network NAME,...` and `--only ROW;...` choose; `--quick` takes LeNet-5, six rows and
an eighth of the training. What was trained is kept in `runs/` as files; their bytes are measured
anew each time, latencies where they are missing or `--round` has another number than before.
`--measure 1` trains nothing, and leaves out what is not there.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, options, put, table

from tersor.compress import load_network
from tersor.core.seeding import seed_everything
from tersor.tasks import Task

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from measuring import deployed, front, speed, write  # noqa: E402 - beside this file
from methods import METHODS, QUICK, DoesNotApplyError  # noqa: E402
from networks import NETS, NETWORKS, Network, Subject  # noqa: E402
from pictures import draw  # noqa: E402

SHOWN = 2.0  # the picture has errors up to so many times the dense one


class Bench:
    """One network with its data, and the cells of its table."""

    def __init__(self, network: Network, data_dir: str | None, nets: Path, round: int) -> None:
        self.network, self._data_dir, self._nets, self._round = network, data_dir, nets, round

    @cache  # noqa: B019 - three of them, as long as the run
    def task(self) -> Task:
        return self.network.load(self._data_dir)

    @cache  # noqa: B019
    def reference(self) -> nn.Module:
        """The dense network, deployed."""
        dense = self.network.trained(self.task(), self._nets)
        return deployed(dense, self.task().example_input)

    def row(self, name: str, train: bool = True) -> dict[str, Any] | None:
        """Everything about a method; or why it does not apply; None: it is not there."""
        cell = {"network": self.network.name, "method": name, "steps": self.network.steps}
        try:
            made = kept(HERE, cell, partial(self._train, name) if train else _not_there)
        except LookupError:
            return None
        if "not" in made:
            return made | {"name": name}
        model = load_network(self.network.fresh(), self._file(name)).eval()
        with tempfile.TemporaryDirectory() as folder:
            size = write(model, Path(folder) / "net.terse")
        timed = kept(
            HERE, cell | {"measured": "latency", "round": self._round}, partial(self._time, model)
        )
        row = {"name": name, "family": METHODS[name].family, "bytes": size}
        return row | {"error": made["error"]} | timed

    def _file(self, name: str) -> Path:
        words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return HERE / "runs" / f"{self.network.name}-{self.network.steps}" / f"{words}.terse"

    def _train(self, name: str) -> dict[str, Any]:
        model = self.network.trained(self.task(), self._nets)
        seed_everything(0, "pareto", name)
        try:
            METHODS[name](Subject(self.network, model, self.task(), self.network.steps))
        except DoesNotApplyError as reason:
            return {"not": str(reason)}
        write(model, self._file(name))
        again = load_network(self.network.fresh(), self._file(name)).eval()
        return {"error": self.network.error_of(again, self.task())}

    def _time(self, model: nn.Module) -> dict[str, float]:
        example = self.task().example_input
        return speed(self.reference(), deployed(model, example), example)


def _not_there() -> None:
    raise LookupError


def shown(network: Network, rows: list[dict[str, Any]]) -> str:
    """The table of a network, smallest file first, and what does not apply."""
    found = sorted((row for row in rows if "error" in row), key=lambda row: row["bytes"])
    dense = next((row for row in found if row["name"] == "dense"), None)
    small, fast = (
        front([row[cost] for row in found], [row["error"] for row in found])
        for cost in ("bytes", "latency")
    )
    lines = []
    for row, on_size, on_speed in zip(found, small, fast, strict=True):
        marks = [m for m, on in (("size", on_size), ("speed", on_speed)) if on]
        lines.append(
            {
                "method": f"**{row['name']}**" if on_size else row["name"],
                "bytes": f"{row['bytes']:,}",
                "smaller": f"{dense['bytes'] / row['bytes']:.1f}" if dense else "",
                network.error: f"{row['error']:.2f}",
                "change": f"{row['error'] - dense['error']:+.2f}" if dense else "",
                "times as fast": f"{1 / row['latency']:.2f}",
                "front": ", ".join(marks),
            }
        )
    without = [f"- {row['name']}: {row['not']}" for row in rows if "not" in row]
    return table(lines) + ("\n\nDo not apply:\n\n" + "\n".join(without) if without else "")


def main() -> None:
    given = options(
        __doc__, nets=str(NETS), network=",".join(NETWORKS), only="", round=0, measure=0
    )
    names = given.only.split(";") if given.only else list(QUICK if given.quick else METHODS)
    for name in ["lenet-5"] if given.quick else given.network.split(","):
        network = NETWORKS[name]
        if given.quick:
            network = replace(network, steps=network.steps // 8)
        bench = Bench(network, given.data_dir, Path(given.nets), given.round)
        rows = [row for method in names if (row := bench.row(method, not given.measure))]
        text = shown(network, rows)
        print(f"{network.title}\n\n{text}\n", flush=True)
        if given.write:
            put(HERE / "README.md", name, text)
            found = [row for row in rows if "error" in row]
            most = SHOWN * next(row["error"] for row in found if row["name"] == "dense")
            draw(found, network.error, HERE / f"{name}.png", most=most)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()

"""Hashed networks on MNIST beside other networks with as many numbers: 1/2 to 1/64 of 784-300-10.

    python experiments/hashed_nets/run.py --data-dir DIR [--write]

All are trained with the same optimizer, rate and steps; nothing is chosen on the test set.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, mean_and_range, options, put, table

from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.quantize import CodebookTuner, codebooks_of, quantize_
from tersor.share import hash_
from tersor.store import save
from tersor.tasks import load_task
from tersor.train import Stepper

HERE = Path(__file__).parent
INPUTS, HIDDEN, CLASSES = 784, 300, 10
RATE = 1e-3
PARTS = (2, 4, 8, 16, 32, 64)


def network(hidden: int = HIDDEN) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )


def dense(part: int) -> nn.Module:
    return network()


def hashed(part: int) -> nn.Module:
    """A bucket for each `part` weights of both layers."""
    model = network()
    hash_(model, 1 / part, start="fresh")
    return model


def hashed_evenly(part: int) -> nn.Module:
    """The same, with as many weights to every bucket."""
    model = network()
    hash_(model, 1 / part, start="fresh", even=True)
    return model


def narrow(part: int) -> nn.Module:
    """Fewer hidden units."""
    return network(max(round(HIDDEN / part), 1))


def low_rank(part: int) -> nn.Module:
    """The first layer as two with nothing between them, trained from scratch; the last is whole."""
    weights = HIDDEN * (INPUTS + CLASSES) / part - HIDDEN * CLASSES
    rank = max(round(weights / (INPUTS + HIDDEN)), 1)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(INPUTS, rank, bias=False),
        nn.Linear(rank, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )


METHODS: dict[str, Callable[[int], nn.Module]] = {
    f.__name__: f for f in (hashed, hashed_evenly, narrow, low_rank)
}


def trained(model: nn.Module, task: Any, steps: int, seed: int, rate: float = RATE) -> nn.Module:
    """Adam, at a rate that falls as a cosine to 0."""
    stepper = Stepper(
        model,
        task,
        torch.optim.Adam(model.parameters(), rate),
        seed=seed,
        rate=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    stepper.run(steps)
    return model


def result(model: nn.Module, task: Any) -> dict[str, Any]:
    """Error, numbers and bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, path := Path(folder) / "net.terse")
        size = path.stat().st_size
    return {
        "test": evaluate(model, task.test).percent,
        "numbers": sum(p.numel() for p in model.parameters()),
        "bytes": size,
    }


def one(method: str, part: int, seed: int, steps: int, data_dir: str | None) -> dict[str, Any]:
    """Train one network from scratch."""
    task = load_task("mnist", data_dir=data_dir)
    seed_everything(seed, "hashed networks")
    model = {"dense": dense, **METHODS}[method](part)
    return result(trained(model, task, steps, seed), task)


def codebooks(bits: int, seed: int, steps: int, data_dir: str | None) -> dict[str, Any]:
    """Train the dense network for three quarters of the steps, share its weights, train on."""
    task = load_task("mnist", data_dir=data_dir)
    seed_everything(seed, "hashed networks")
    model = trained(network(), task, steps * 3 // 4, seed)
    quantize_(model, bits)
    tuner = CodebookTuner(model, codebooks_of(model))
    optimizer = torch.optim.Adam(model.parameters(), RATE / 10)
    Stepper(model, task, optimizer, seed=seed + 1000).run(steps // 4, methods=[tuner])
    return result(model, task)


def main() -> None:
    given = options(__doc__, first=0)
    steps = 430 if given.quick else 1720
    seeds = range(given.first, given.first + (1 if given.quick else given.seeds))

    def runs(name: str, part: int) -> list[dict[str, Any]]:
        found = []
        for seed in seeds:
            settings = {"method": name, "part": part, "seed": seed, "steps": steps, "version": 1}
            if name == "codebooks":
                bits = max(32 // part, 1)
                compute = lambda s=seed, b=bits: codebooks(b, s, steps, given.data_dir)  # noqa: E731
            else:
                compute = lambda s=seed: one(name, part, s, steps, given.data_dir)  # noqa: E731
            found.append(kept(HERE, settings, compute))
        return found

    base = runs("dense", 1)
    rows = [{"numbers": "all", "dense": mean_and_range([r["test"] for r in base])}]
    sizes = [{"numbers": "all", "dense": f"{base[0]['numbers']:,}: {base[0]['bytes']:,} B"}]
    for part in PARTS:
        row, size = {"numbers": f"1/{part}"}, {"numbers": f"1/{part}"}
        for name in (*METHODS, "codebooks"):
            if name == "codebooks" and not 4 <= part <= 32:
                continue  # codes of 8, 4, 2 and 1 bit
            found = runs(name, part)
            row[name] = mean_and_range([r["test"] for r in found])
            size[name] = f"{found[0]['numbers']:,}: {found[0]['bytes']:,} B"
        rows.append(row)
        sizes.append(size)
        print(row, flush=True)
    columns = ["numbers", "dense", *METHODS, "codebooks"]
    rows = [{c: row.get(c, "") for c in columns} for row in rows]
    sizes = [{c: row.get(c, "") for c in columns} for row in sizes]
    print(table(rows), "\n", table(sizes))
    if given.write:
        put(HERE / "README.md", "errors", table(rows))
        put(HERE / "README.md", "sizes", table(sizes))


if __name__ == "__main__":
    main()

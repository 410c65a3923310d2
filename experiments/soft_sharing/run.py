"""Soft weight sharing of LeNet-300-100 on MNIST: pruned and quantized by a learned prior.

    python experiments/soft_sharing/run.py --data-dir DIR [--write]

A network is trained, trained on under the mixture prior, and hardened; nothing is chosen on the
test set. Bytes are those of the files.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, mean_and_range, options, put, table

from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.share import SoftSharing
from tersor.store import load_into, read_tensors, save
from tersor.tasks import Task, build_model, load_task
from tersor.train import Stepper

HERE = Path(__file__).parent
STEPS = 4_690  # of the dense network, batches of 128
TAUS = (0.005, 0.02)
SAMPLES = 60_000


def network() -> nn.Module:
    return build_model("lenet-300-100", input_shape=(1, 28, 28))


def falling(steps: int) -> Any:
    """A rate that falls as a cosine to 0."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def dense(task: Task, seed: int, steps: int) -> Path:
    """The file of a trained network, trained if it is not there."""
    path = HERE / "runs" / f"dense-{steps}-{seed}.terse"
    if not path.exists():
        seed_everything(seed, "soft sharing")
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        Stepper(model, task, optimizer, seed=seed, rate=falling(steps)).run(steps)
        path.parent.mkdir(exist_ok=True)
        save(model, path)
    return path


def size(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(model, path := Path(folder) / "net.terse")
        return path.stat().st_size


def one(
    task: Task, seed: int, tau: float, steps: int, rates: tuple[float, float]
) -> dict[str, Any]:
    """Error and bytes before and after soft sharing."""
    path = dense(task, seed, STEPS if steps > 500 else 500)
    model = load_into(network(), read_tensors(path), source=path)
    before = evaluate(model, task.test).percent
    plain = sum(4 * p.numel() for p in model.parameters())
    seed_everything(seed, "mixture")
    sharing = SoftSharing(model, 16, strength=tau / SAMPLES, learning_rate=rates[1])
    optimizer = torch.optim.Adam(model.parameters(), rates[0])
    Stepper(model, task, optimizer, seed=seed + 1000).run(steps, methods=[sharing])
    soft = evaluate(model, task.test).percent
    report = sharing.harden_()
    return {
        "dense": before,
        "soft": soft,
        "hard": evaluate(model, task.test).percent,
        "kept": 100 * int(report.summary["kept"]) / int(report.summary["weights"]),
        "values": max(int(row["values"]) for row in report.rows),
        "bytes": size(model),
        "ratio": plain / size(model),
    }


def main() -> None:
    given = options(__doc__, first=0, steps=4_690, rate=5e-4, mixture_rate=5e-4)
    steps = 300 if given.quick else given.steps
    task = load_task("mnist", data_dir=given.data_dir, batch_size=128)
    rows = []
    for tau in TAUS:
        found = []
        for seed in range(given.first, given.first + (1 if given.quick else given.seeds)):
            rates = (given.rate, given.mixture_rate)
            settings = {"tau": tau, "seed": seed, "steps": steps, "rates": rates, "version": 1}

            def compute(tau: float = tau, seed: int = seed, rates: Any = rates) -> Any:
                return one(task, seed, tau, steps, rates)

            found.append(kept(HERE, settings, compute))
        columns = {
            "error % before": ("dense", 2),
            "before hardening": ("soft", 2),
            "after": ("hard", 2),
            "weights kept %": ("kept", 1),
            "values a layer": ("values", 0),
            "bytes": ("bytes", 0),
            "ratio": ("ratio", 1),
        }
        shown = {c: mean_and_range([r[k] for r in found], n) for c, (k, n) in columns.items()}
        rows.append({"tau": tau, **shown})
        print(rows[-1], flush=True)
    print(text := table(rows))
    if given.write:
        put(HERE / "README.md", "lenet-300-100", text)


if __name__ == "__main__":
    main()

"""Factors of LeNet-5 on MNIST and of ResNet-8 on CIFAR-10: error, weights, bytes and latency.

    python experiments/factorize/run.py --data-dir DIR [--nets FOLDER] [--write]

Each method at three budgets (the share of the weights of the layers that it takes), before and
after a fine-tuning of 150 steps. The dense networks are those that
`experiments/quantization/dense.py` trains.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, options, put, table

from tersor.core.errors import ConfigError
from tersor.core.seeding import seed_everything
from tersor.factorize import factorize_
from tersor.measure import evaluate
from tersor.store import load_into, read_tensors, save
from tersor.tasks import Task, build_model, load_task

FOLDER = Path(__file__).parent
TASKS = {"lenet-5": "mnist", "resnet-8": "cifar10"}
METHODS = ("svd", "activation_svd", "spatial_svd", "tucker", "cp", "tensor_train", "block_term")
BUDGETS = (0.5, 0.25, 0.1)
STEPS = 150


def dense(name: str, task: Task, nets: Path) -> nn.Module:
    """The trained network, from its file."""
    model = build_model(name, input_shape=tuple(task.example_input.shape[1:]))
    file = nets / f"{name}-{task.name}-0.terse"
    if not file.exists():
        raise SystemExit(f"{file} is not there; first: experiments/quantization/dense.py")
    return load_into(model, read_tensors(file), source=file).eval()


def fine_tuned(model: nn.Module, task: Task) -> None:
    """Some steps of Adam, at a learning rate that falls to zero."""
    seed_everything(0, "fine-tuning")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    model.train()
    for inputs, targets in itertools.islice(task.train, STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        falling.step()
    model.eval()


@torch.no_grad()
def speed(reference: nn.Module, model: nn.Module, example: torch.Tensor) -> float:
    """Median latency of the dense network by that of the other, in turns, a batch of one."""
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(60):
        for net, taken in zip((reference, model), samples, strict=True):
            began = time.perf_counter()
            net(example)
            taken.append(time.perf_counter() - began)
    return statistics.median(samples[0][5:]) / statistics.median(samples[1][5:])


def size(model: nn.Module) -> int:
    """Bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.terse"
        save(model, path)
        return path.stat().st_size


def one(task: Task, nets: Path, name: str, method: str, budget: float) -> dict[str, Any]:
    """A row of the table."""
    reference, model = dense(name, task, nets), dense(name, task, nets)
    row: dict[str, Any] = {"method": method, "budget": budget}
    if method != "dense":
        data = list(itertools.islice(task.train, 4)) if method == "activation_svd" else None
        try:
            report = factorize_(model, method=method, budget=budget, data=data)
        except ConfigError as error:
            return row | {"layers": f"not reachable: {str(error).partition('.')[0]}"}
        row["layers"] = report.summary["layers"]
        row["error before"] = round(evaluate(model, task.test).percent, 2)
        fine_tuned(model, task)
    row["error"] = round(evaluate(model, task.test).percent, 2)
    row["weights"] = sum(p.numel() for p in model.parameters())
    row["bytes"] = size(model)
    example = task.example_input[:1]
    row["speed"] = 1.0 if method == "dense" else round(speed(reference, model, example), 2)
    return row


def main() -> None:
    nets = str(FOLDER.parent / "quantization/runs/nets")
    given = options(__doc__, nets=nets, only="lenet-5", methods=",".join(METHODS))
    methods, budgets = given.methods.split(","), BUDGETS[:1] if given.quick else BUDGETS
    for name in given.only.split(","):
        task = load_task(TASKS[name], data_dir=given.data_dir, batch_size=128)
        cells = [("dense", 1.0), *itertools.product(methods, budgets)]
        rows = []
        for method, budget in cells:
            settings = {"network": name, "method": method, "budget": budget, "steps": STEPS}

            compute = functools.partial(one, task, Path(given.nets), name, method, budget)
            rows.append(kept(FOLDER, settings, compute))
        print(text := table(rows))
        if given.write:
            put(FOLDER / "README.md", name, text)


if __name__ == "__main__":
    main()

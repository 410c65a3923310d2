"""Trainings in each of several processes; run by torchrun.

python two_processes.py FOLDER: each process writes what it ended with to FOLDER/RANK.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tersor.prune import GradualPruner
from tersor.tasks import Batches, Task
from tersor.train import RunLog, Training, fit, steps_per_epoch
from tersor.train.processes import processes


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    return F.one_hot(targets, 4) + 0.2 * torch.randn(count, 4, generator=generator), targets


def batches(size: int, count: int = 64) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = points(count)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def task(train: Batches) -> Task:
    return Task("points", train, batches(20, 40), batches(20, 40))


def net(seed: int = 0, hidden: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


SGD = Training(epochs=3, optimizer="sgd", learning_rate=0.05, keep="last")

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), processes().process_index
    found = {"processes": processes().num_processes}

    model = net()
    fit(model, task(batches(8)), SGD, label="list")
    found["list"] = model.state_dict()

    model = net()
    odd = task(batches(8, 56))  # seven batches, four rounds
    report = fit(model, odd, SGD, verbose=False)
    found["odd"] = model.state_dict()
    found["odd steps"] = (report.summary["optimizer steps"], steps_per_epoch(odd))

    model = net(seed=rank, hidden=32)  # other weights in each process, until the first step
    pruner = GradualPruner(model, 0.3, end=8, allocation="lamp")
    shuffled = task(DataLoader(TensorDataset(*points(64)), 8, shuffle=True))
    training = Training(epochs=10, learning_rate=0.05)
    report = fit(
        model,
        shuffled,
        training,
        methods=[pruner],
        checkpoint=folder / "state",
        log=RunLog(folder / "log"),
        verbose=False,
    )
    found["pruned"] = model.state_dict()
    found["summary"] = dict(report.summary)
    torch.save(found, folder / f"rank{rank}")

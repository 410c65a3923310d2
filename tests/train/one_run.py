"""One small training with everything random in it; run as a script it can be killed.

python one_run.py METHOD CHECKPOINT OUT [SIGNAL STEP]
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tersor.prune import GradualPruner, prune_
from tersor.quantize import CodebookTuner, codebooks_of, quantize_
from tersor.tasks import Task
from tersor.train import Training, fit

SETTINGS = {
    "plain": Training(epochs=4, optimizer="sgd", learning_rate=0.1, keep="last"),
    "pruner": Training(epochs=4, optimizer="adamw", weight_decay=0.1, learning_rate=0.01),
    "tuner": Training(
        epochs=4, optimizer="sgd", learning_rate=0.01, keep="last", checkpoint_steps=1
    ),
}
STEPS = 32


class Noisy(Dataset):
    """Points of three classes; noise is added whenever one is looked at."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.targets = torch.randint(3, (count,), generator=generator)
        self.inputs = F.one_hot(self.targets, 6) + 0.3 * torch.randn(count, 6, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index] + 0.1 * torch.randn(6), self.targets[index]


def run(
    kind: str,
    checkpoint: Path | None = None,
    *,
    at_step: Callable[[int], None] = lambda step: None,
    **changes,
) -> tuple[nn.Module, dict]:
    """Train; before each step `at_step` gets the number of calls to the loss so far."""
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        at_step(calls)
        return F.cross_entropy(outputs, targets)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )
    methods = []
    if kind == "pruner":
        methods = [GradualPruner(model, 0.3, start=3, end=20, every=2, allocation="lamp")]
    elif kind == "tuner":
        masks, _ = prune_(model, 0.5)
        quantize_(model, 2, masks=masks)
        methods = [CodebookTuner(model, codebooks_of(model))]
    held_out = [next(iter(DataLoader(Noisy(50), batch_size=50)))]
    task = Task("noisy", DataLoader(Noisy(64), 8, shuffle=True), held_out, held_out, loss)
    training = SETTINGS[kind].model_copy(update=changes)
    report = fit(model, task, training, methods=methods, checkpoint=checkpoint, verbose=False)
    return model, dict(report.summary)


if __name__ == "__main__":
    torch.set_num_threads(1)
    method, where, out, *stop = sys.argv[1:]

    def kill(step: int) -> None:
        if stop and step == int(stop[1]):
            os.kill(os.getpid(), getattr(signal, stop[0]))

    trained, _ = run(method, Path(where), at_step=kill)
    torch.save(trained.state_dict(), out)

"""The three networks of the comparison: how each begins, trains on for a while, and is judged."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "quantization"))
from dense import NETS, dense

from tersor.core.hooks import Method
from tersor.core.seeding import seed_everything
from tersor.measure import evaluate, mean_loss
from tersor.store import load_into, read_tensors, save
from tersor.tasks import Task, load_task
from tersor.tasks.catalog import network_for
from tersor.train import Stepper, Training, fit

LANGUAGE = Training(epochs=1, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01)
TEST_BATCHES = 32  # of the language model's test set: 65,536 words


@dataclass(frozen=True)
class Network:
    """One of the networks.

    Args:
        name, task: as in `MODELS` and `TASKS`.
        title: as tables call it.
        steps: of training that each method may use.
        rate: Adam's learning rate at first; it falls to zero as a cosine.
        error: what stands in the tables.
    """

    name: str
    task: str
    title: str
    steps: int
    rate: float
    error: str

    def fresh(self) -> nn.Module:
        """The network with fresh weights."""
        return network_for(self.task, self.name)

    def load(self, data_dir: str | None) -> Task:
        """Its data."""
        return load_task(self.task, data_dir=data_dir)

    def trained(self, task: Task, nets: Path = NETS) -> nn.Module:
        """The dense network that all methods begin with: from its file, or trained and written."""
        if not task.perplexity:
            return dense(self.name, task, 0, nets)
        seed_everything(0, "init")
        model = self.fresh()
        file = nets / f"{self.name}-{self.task}-0.terse"
        if not file.exists():
            fit(model, task, LANGUAGE, seed=0, verbose=False)
            nets.mkdir(parents=True, exist_ok=True)
            save(model, file, metadata={"task": self.task, "model": self.name})
        return load_into(model, read_tensors(file), source=file).eval()

    def error_of(self, model: nn.Module, task: Task) -> float:
        """Percent of mistakes, or the perplexity, on the test set."""
        if not task.perplexity:
            return evaluate(model, task.test, mistakes=task.mistakes).percent
        return math.exp(mean_loss(model, list(itertools.islice(task.test, TEST_BATCHES))))


NETWORKS = {
    network.name: network
    for network in (
        Network("lenet-5", "mnist", "LeNet-5, MNIST", 200, 5e-4, "error %"),
        Network("resnet-8", "cifar10", "ResNet-8, CIFAR-10", 120, 1e-3, "error %"),
        Network("transformer-lm", "wikitext-2", "Transformer, WikiText-2", 80, 5e-4, "perplexity"),
    )
}


@dataclass
class Subject:
    """A trained network that a method changes in place, and the training that it may use."""

    network: Network
    model: nn.Module
    task: Task
    steps: int
    seed: int = 0

    def train(self, methods: Sequence[Method] = (), *, rate: float = 1.0) -> None:
        """All steps, with these methods attached; `rate` is a factor on the network's own."""
        optimizer = torch.optim.Adam(self.model.parameters(), rate * self.network.rate)
        falling = lambda step: 0.5 * (1 + math.cos(math.pi * step / self.steps))  # noqa: E731
        stepper = Stepper(self.model, self.task, optimizer, seed=self.seed, rate=falling)
        stepper.run(self.steps, methods=methods)
        self.seed += 1000  # the next stage of a composition sees other batches
        self.model.eval()

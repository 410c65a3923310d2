"""The dense networks that the experiments on quantization begin with, each trained once and kept.

    python experiments/quantization/dense.py --data-dir DIR [--nets FOLDER]

LeNet-300-100 and LeNet-5 on MNIST as their recipes train them; ResNet-8 on CIFAR-10 for eight
epochs, in bfloat16 where it multiplies.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import options

from tersor.compress import recipe_for
from tersor.core.seeding import seed_everything
from tersor.store import load_into, read_tensors, save
from tersor.tasks import Task, build_model, load_task
from tersor.train import Training, fit

FOLDER = Path(__file__).parent
NETS = FOLDER / "runs" / "nets"
TASKS = {"lenet-300-100": "mnist", "lenet-5": "mnist", "resnet-8": "cifar10"}
RESNET = Training(
    epochs=8, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, precision="bf16", keep="last"
)


def dense(name: str, task: Task, seed: int, nets: Path = NETS) -> nn.Module:
    """The trained network of this name and seed: from its file, or trained now and written."""
    seed_everything(seed, "init")
    model = build_model(name, input_shape=tuple(task.example_input.shape[1:]))
    file = nets / f"{name}-{task.name}-{seed}.terse"
    if not file.exists():
        training = recipe_for(task.name, name).steps[0] if task.name == "mnist" else RESNET
        fit(model, task, training, seed=seed, verbose=False)
        nets.mkdir(parents=True, exist_ok=True)
        save(model, file, metadata={"task": task.name, "model": name})
    return load_into(model, read_tensors(file), source=file).eval()


def task_of(name: str, data_dir: str | None) -> Task:
    """The task that a network is for."""
    return load_task(TASKS[name], data_dir=data_dir, batch_size=128)


def main() -> None:
    given = options(__doc__, nets=str(NETS), only="")
    for name in [given.only] if given.only else TASKS:
        task = task_of(name, given.data_dir)
        for seed in range(given.seeds):
            dense(name, task, seed, Path(given.nets))
            print(f"{name} seed {seed} is there", flush=True)


if __name__ == "__main__":
    main()

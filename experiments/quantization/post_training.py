"""Quantization after training: 8 bits for weights and inputs, fewer bits by three ways.

    python experiments/quantization/post_training.py --data-dir DIR [--quick] [--write]

LeNet-300-100 and LeNet-5 on MNIST (three seeds), ResNet-8 on CIFAR-10 (one, its batch norms
folded), no training at all afterwards. Every result is kept in `runs/`.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from dense import NETS, TASKS, dense, task_of
from running import kept, options, put, table

from tersor.measure import evaluate
from tersor.quantize import (
    ACTIVATION_RANGES,
    Affine,
    correct_biases_,
    equalize_,
    fold_batch_norms_,
    gptq_,
    quantize_,
    quantize_activations_,
)
from tersor.tasks import Task

FOLDER = Path(__file__).parent
BATCHES = 8  # of 128 training samples, for everything that looks at data
LABELS = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5", "resnet-8": "ResNet-8"}

Way = Callable[[nn.Module, Task], None]


def weights(quantizer: Affine, model: nn.Module, task: Task) -> None:
    quantize_(model, quantizer)


def both(range: str, quantizer: Affine, model: nn.Module, task: Task) -> None:
    quantize_(model, quantizer)
    quantize_activations_(model, task.train, range=range, batches=BATCHES)


def equalized(quantizer: Affine, model: nn.Module, task: Task) -> None:
    equalize_(model)
    both("percentile", quantizer, model, task)


def corrected(quantizer: Affine, model: nn.Module, task: Task) -> None:
    reference = copy.deepcopy(model)
    quantize_(model, quantizer)
    correct_biases_(model, reference, task.train, batches=BATCHES)


def reconstructed(quantizer: Affine, model: nn.Module, task: Task) -> None:
    gptq_(model, quantizer, task.train, batches=BATCHES)


WAYS: dict[str, Way] = {
    "dense": lambda model, task: None,
    "8-bit weights": partial(weights, Affine(8)),
}
WAYS |= {f"8 / 8, {name}": partial(both, name, Affine(8)) for name in ACTIVATION_RANGES}
WAYS |= {
    "8 / 8, percentile, a scale per tensor": partial(both, "percentile", Affine(8, "tensor")),
    "the same, equalized": partial(equalized, Affine(8, "tensor")),
}
for _bits in (4, 3, 2):
    _grid = Affine(_bits, range="mse")
    WAYS |= {
        f"{_bits}-bit weights, nearest, min-max": partial(weights, Affine(_bits)),
        f"{_bits}-bit weights, nearest, mse": partial(weights, _grid),
        f"{_bits}-bit weights, mse, biases corrected": partial(corrected, _grid),
        f"{_bits}-bit weights, mse, GPTQ": partial(reconstructed, _grid),
    }
QUICK = ("dense", "8 / 8, percentile", "4-bit weights, nearest, mse", "4-bit weights, mse, GPTQ")


def one(name: str, way: str, seed: int, task: Task, nets: Path) -> float:
    """The test error, in percent."""
    model = dense(name, task, seed, nets)
    if name == "resnet-8":
        fold_batch_norms_(model)
    WAYS[way](model, task)
    return evaluate(model, task.test, mistakes=task.mistakes).percent


def rows(given: Any) -> list[dict[str, str]]:
    errors: dict[str, dict[str, float]] = {}
    for name in TASKS:
        task = task_of(name, given.data_dir)
        seeds = range(1 if name == "resnet-8" else given.seeds)
        for way in QUICK if given.quick else WAYS:
            found = [
                kept(
                    FOLDER,
                    {"experiment": "post-training", "network": name, "way": way, "seed": seed},
                    partial(one, name, way, seed, task, Path(given.nets)),
                )
                for seed in seeds
            ]
            errors.setdefault(way, {})[name] = statistics.mean(found)
    return [
        {"weights / inputs": way} | {LABELS[name]: _show(name, way, errors) for name in TASKS}
        for way in errors
    ]


def _show(name: str, way: str, errors: dict[str, dict[str, float]]) -> str:
    value = errors[way][name]
    return (
        f"{value:.2f}" if way == "dense" else f"{value:.2f} ({value - errors['dense'][name]:+.2f})"
    )


def main() -> None:
    given = options(__doc__, nets=str(NETS))
    text = table(rows(given))
    print(text)
    if given.write:
        put(FOLDER / "README.md", "post-training", text)


if __name__ == "__main__":
    main()

"""What it costs to find the grids of activations, beside the forward passes that it needs.

    python benchmarks/calibration.py [--threads 1] [--write benchmarks/calibration.md]

Calibration is `quantize_activations_` over 1,024 samples with each range; the unit is plain forward
passes over the same batches, of attention with its layers called one by one, as calibration has to.
Ways take turns, round after round; the table has medians of the ratios to the same round's passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tersor.core.feeding import feed
from tersor.core.layer_inputs import plain_attention
from tersor.quantize import quantize_activations_, remove_activation_quantizers_
from tersor.quantize.activation_ranges import ACTIVATION_RANGES
from tersor.tasks import build_model

SAMPLES = 1024


def encoder() -> nn.Module:
    """Two million weights: four layers of width 256."""
    layer = partial(nn.TransformerEncoderLayer, 256, 8, 512, dropout=0.0, batch_first=True)
    return nn.Sequential(*(layer() for _ in range(4)))


# Name to the network, the shape of a sample, and how many samples.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "lenet-300-100": (partial(build_model, "lenet-300-100"), (1, 28, 28), SAMPLES),
    "lenet-5": (partial(build_model, "lenet-5"), (1, 28, 28), SAMPLES),
    "resnet-8": (partial(build_model, "resnet-8", input_shape=(3, 32, 32)), (3, 32, 32), SAMPLES),
    "vgg-small": (partial(build_model, "vgg-small", input_shape=(3, 32, 32)), (3, 32, 32), SAMPLES),
    "transformer, width 32": (partial(build_model, "transformer"), (1, 28, 28), SAMPLES),
    "encoder, width 256": (encoder, (32, 256), SAMPLES // 4),
}


def passes(model: nn.Module, batches: list[Tensor]) -> None:
    with plain_attention():
        feed(model, batches)


def measured(model: nn.Module, batches: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round after round."""
    ways: dict[str, Callable[[], object]] = {"passes": partial(passes, model, batches)}
    for name in ACTIVATION_RANGES:
        ways[name] = partial(quantize_activations_, model, batches, range=name)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            began = time.process_time()
            run()
            seconds = time.process_time() - began
            remove_activation_quantizers_(model)
            if number:  # the first round warms up
                found[way].append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="one network")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s); processor time, medians of "
        f"{options.rounds} rounds. Calibration over forward passes:",
        "",
        "| network | batches | passes, ms | " + " | ".join(ACTIVATION_RANGES) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(ACTIVATION_RANGES),
    ]
    for name, (build, shape, samples) in NETWORKS.items():
        if options.only not in ("", name):
            continue
        for size in (64, 128):
            torch.manual_seed(0)
            model = build()
            batches = [torch.rand(size, *shape) for _ in range(samples // size)]
            found = measured(model, batches, options.rounds)
            unit = found.pop("passes")
            ratios = [
                statistics.median(s / u for s, u in zip(seconds, unit, strict=True))
                for seconds in found.values()
            ]
            lines.append(
                f"| {name} | {len(batches)} x {size} | {1000 * statistics.median(unit):.1f} | "
                + " | ".join(f"{ratio:.2f}" for ratio in ratios)
                + " |"
            )
            print(lines[-1], flush=True)
    lines += [
        "",
        "The bar is 1.2. LeNet-300-100 misses it where a histogram is kept: its passes take 8 ms "
        "in all, and three histograms cost 2 to 4 ms on any network.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/calibration.py --write benchmarks/calibration.md"
        options.write.write_text(f"# Calibration of activations\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

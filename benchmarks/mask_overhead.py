"""What it costs to hold masks while training, beside torch.nn.utils.prune on the same loop.

    python benchmarks/mask_overhead.py [--threads 1] [--write benchmarks/mask_overhead.md]

Each way trains the same network on the same batches; the ways take turns, round after round, so
that a drift of the machine's speed hits all alike. The table has medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from tersor.core import MaskSet
from tersor.core.hooks import Attachment
from tersor.prune import GradualPruner, prune_
from tersor.tasks import build_model

DENSITY = 0.08


def dense(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Attachment:
    return Attachment(optimizer)


def held(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Attachment:
    masks: MaskSet
    masks, _ = prune_(model, DENSITY)
    return masks.attach(model, optimizer)


def gradual(
    every: int, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> Attachment:
    return GradualPruner(model, DENSITY, end=steps, every=every).attach(optimizer)


def torch_prune(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Attachment:
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=1 - DENSITY)
    return Attachment(optimizer)


WAYS: dict[str, Callable[[nn.Module, torch.optim.Optimizer, int], Attachment]] = {
    "dense": dense,
    "tersor MaskSet.attach": held,
    "tersor GradualPruner, every 50 steps": partial(gradual, 50),  # as the recipes for MNIST
    "tersor GradualPruner, every 100 steps": partial(gradual, 100),  # as Zhu and Gupta
    "torch.nn.utils.prune": torch_prune,
}


def seconds(way: str, name: str, batch: int, steps: int) -> float:
    """Time of some optimizer steps, after a warm-up of a tenth of them."""
    torch.manual_seed(0)
    model = build_model(name)
    inputs, targets = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    with contextlib.ExitStack() as stack:
        # torch.nn.utils.prune replaces the parameter, but keeps the object the optimizer has.
        stack.enter_context(WAYS[way](model, optimizer, steps))
        began = 0.0
        for step in range(steps + steps // 10):
            if step == steps // 10:
                began = time.process_time()
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), SGD with momentum, batch 128, "
        f"density {DENSITY}; processor time, medians of {options.rounds} rounds.",
        "",
        "| network | way | ms per step | ratio to dense |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, steps in (("lenet-300-100", 300), ("lenet-5", 100)):
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                times[way].append(seconds(way, name, 128, steps) / steps)
        for way in WAYS:
            ratio = statistics.median(
                t / d for t, d in zip(times[way], times["dense"], strict=True)
            )
            ms = 1000 * statistics.median(times[way])
            lines.append(f"| {name} | {way} | {ms:.3f} | {ratio:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        write = "--write benchmarks/mask_overhead.md"
        command = f"python benchmarks/mask_overhead.py --rounds {options.rounds} {write}"
        options.write.write_text(f"# Mask-holding overhead\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

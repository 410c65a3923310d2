"""What it costs to prune a model of 100 million weights by global magnitude.

    python benchmarks/global_pruning.py [--write benchmarks/global_pruning.md]

Beside `prune_` stand a pass without a sort (`kthvalue` over all magnitudes, and the mask) and
`torch.nn.utils.prune.global_unstructured`. Each is a process of its own, so that its peak of
resident memory, less that with the model alone, is what it took; the ways take turns, and the
table has medians over the rounds, and of the memory the largest too: how the heap falls is not
the same in every process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

from tersor.prune import prune_

DENSITY = 0.1
LAYERS, SIDE = 24, 2048


def one_pass(model: nn.Module) -> torch.Tensor:
    """The magnitudes of all weights, the one at the density, and a mask of those above it."""
    magnitudes = torch.cat([p.detach().abs().flatten() for p in model.parameters()])
    threshold = magnitudes.kthvalue(round((1 - DENSITY) * magnitudes.numel())).values
    return magnitudes > threshold


def tersor(model: nn.Module) -> None:
    prune_(model, DENSITY)


def torch_prune(model: nn.Module) -> None:
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=1 - DENSITY)


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "kthvalue pass": one_pass,
    "tersor prune_": tersor,
    "torch.nn.utils.prune": torch_prune,
}


def peak() -> int:
    """The most resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(way: str, threads: int) -> dict[str, float]:
    """Seconds and bytes of one way, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    WAYS[way](nn.Linear(64, 64))  # what is loaded at first use is no part of it
    before, began = peak(), time.perf_counter()
    WAYS[way](model)
    return {"seconds": time.perf_counter() - began, "bytes": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--way", help="measure one way and print it as JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout))
    weights = LAYERS * SIDE * SIDE
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), {weights:,} weights (float32) in "
        f"{LAYERS} layers, density {DENSITY}; medians of {options.rounds} rounds.",
        "",
        "| way | seconds | ratio to the pass | peak memory above the model, in weights' bytes "
        "| the largest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for way, runs in found.items():
        ratio = statistics.median(
            run["seconds"] / base["seconds"]
            for run, base in zip(runs, found["kthvalue pass"], strict=True)
        )
        seconds = statistics.median(run["seconds"] for run in runs)
        memory = [run["bytes"] / (4 * weights) for run in runs]
        lines.append(
            f"| {way} | {seconds:.2f} | {ratio:.2f} "
            f"| {statistics.median(memory):.2f} | {max(memory):.2f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/global_pruning.py --write benchmarks/global_pruning.md"
        options.write.write_text(f"# Pruning 100 million weights\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

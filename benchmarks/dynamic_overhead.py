"""What sparse training costs in time, beside dense training on the same loop.

    python benchmarks/dynamic_overhead.py [--threads 1] [--write benchmarks/dynamic_overhead.md]

Every way trains a copy of the same network on the same batch. They take turns, a hundred steps
each, so that a drift of the machine's speed hits all alike; a hundred steps hold one update of
the masks. Times are those of the processor, not of the clock on the wall, so that other programs
disturb less. The table has medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.hooks import Attachment, Method
from tersor.core.masks import HeldMasks
from tersor.prune.dynamic import DeepR, rigl, set_, snfs, sr_ste, top_kast
from tersor.tasks import build_model

DENSITY = 0.1
STEPS = 100  # of a turn; the masks are updated once in it
END = 10**9  # never, here


def static(model: nn.Module) -> Method:
    return HeldMasks(model, set_(model, DENSITY, end=0).masks)


def cycle(make: Callable[..., Method]) -> Callable[[nn.Module], Method]:
    return lambda model: make(model, DENSITY, end=END, every=STEPS)


WAYS: dict[str, Callable[[nn.Module], Method] | None] = {
    "dense": None,
    "dense, a second time": None,
    "static masks": static,
    "SET": cycle(set_),
    "RigL": cycle(rigl),
    "SNFS": cycle(snfs),
    "DeepR": partial(DeepR, density=DENSITY),
    "Top-KAST": partial(top_kast, density=DENSITY, every=STEPS),
    "SR-STE 2:4, masks every step": partial(sr_ste, pattern="2:4"),
    "SR-STE 2:4, masks every 100 steps": partial(sr_ste, pattern="2:4", every=STEPS),
}


def loop(way: str, name: str, batch: int) -> Callable[[], float]:
    """A training that makes a turn of steps whenever it is called, and says how long it took."""
    torch.manual_seed(0)
    model = build_model(name)
    inputs, targets = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    make = WAYS[way]
    attached = make(model).attach(optimizer) if make else Attachment(optimizer)

    def turn(steps: int = STEPS) -> float:
        with_hooks = attached  # they live as long as this function
        began = time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        assert with_hooks
        return time.process_time() - began

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), SGD with momentum, batch 128, "
        f"density {DENSITY}, an update every {STEPS} steps; medians of {options.rounds} rounds "
        f"({options.rounds // 3} for lenet-5), processor time.",
        "",
        "| network | way | CPU ms per step | ratio to dense |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, rounds in (("lenet-300-100", options.rounds), ("lenet-5", options.rounds // 3)):
        loops = {way: loop(way, name, 128) for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            for way, turn in loops.items():
                seconds = turn()
                if number:  # the first turn warms up
                    times[way].append(seconds / STEPS)
        for way in WAYS:
            ratio = statistics.median(
                t / d for t, d in zip(times[way], times["dense"], strict=True)
            )
            ms = 1000 * statistics.median(times[way])
            lines.append(f"| {name} | {way} | {ms:.3f} | {ratio:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/dynamic_overhead.py --write benchmarks/dynamic_overhead.md"
        options.write.write_text(f"# Overhead of sparse training\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

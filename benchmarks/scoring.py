"""What SNIP's scores of a network of 10 million weights cost, beside a forward and backward pass.

    python benchmarks/scoring.py [--write benchmarks/scoring.md]

Both see the same batch of 128 and leave the weights as they are. Times are taken in turns in one
process, after a first call of each. Memory is that of a process of its own for each call: its peak
of resident memory, less the peak with model and batch alone, so what the allocator keeps from an
earlier call counts for nobody. The table has medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.prune import ScoringData, prune_
from tersor.prune.criteria import snip
from tersor.tasks import build_model
from tersor.tasks.networks import mlp

Batch = tuple[Tensor, Tensor]

NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "mlp 2048-2048-2048": (
        (1, 28, 28),
        lambda: mlp((1, 28, 28), 10, widths=(2048,) * 3, activation=nn.ReLU),
    ),
    "vgg-c": ((3, 32, 32), lambda: build_model("vgg-c", input_shape=(3, 32, 32))),
}
"""Name to the shape of one input, and the function that builds it."""


def one_pass(model: nn.Module, batch: Batch) -> None:
    """Forward and backward, in evaluation mode as scores are taken; the gradients are kept."""
    model.zero_grad()
    F.cross_entropy(model.eval()(batch[0]), batch[1]).backward()


def snip_scores(model: nn.Module, batch: Batch) -> None:
    snip(model, ScoringData([batch]))


def snip_prune(model: nn.Module, batch: Batch) -> None:
    prune_(model, 0.05, criterion="snip", data=[batch])


WAYS: dict[str, Callable[[nn.Module, Batch], None]] = {
    "forward and backward": one_pass,
    "tersor snip": snip_scores,
    "tersor prune_ by snip": snip_prune,
}


def made(name: str) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    shape, build = NETWORKS[name]
    return build(), (torch.randn(128, *shape), torch.randint(10, (128,)))


def weights_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def seconds(name: str, rounds: int) -> dict[str, list[float]]:
    """Times of each way, round by round, each on a model of its own."""
    batch = made(name)[1]
    models = {way: made(name)[0] for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, run in WAYS.items():
            began = time.perf_counter()
            run(models[way], batch)
            if number > 0:  # the first call is a warm-up
                times[way].append(time.perf_counter() - began)
    return times


def peak() -> int:
    """The most resident memory of this process so far, in bytes; Linux.

    `ru_maxrss` would not do: a process starts with that of the one which started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def memory(way: str, name: str) -> int:
    """Bytes that one call takes at its peak, in this process."""
    model, batch = made(name)
    small = mlp((1, 28, 28), 10, widths=(8,))
    WAYS[way](small, (torch.randn(2, 1, 28, 28), torch.tensor([0, 1])))  # loads what is needed
    before = peak()
    WAYS[way](model, batch)
    return peak() - before


def memories(name: str, rounds: int, threads: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--threads", str(threads), "--memory", way, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--memory", nargs=2, metavar=("WAY", "NETWORK"), help="print bytes of one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(memory(*options.memory)))
        return
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), one batch of 128, float32; "
        f"medians of {options.rounds} rounds. Bar for snip: 2 passes, and 2.00 above the pass.",
        "",
        "| network | weights | way | seconds | passes | peak memory above the model, in weights' "
        "bytes | above the pass |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in NETWORKS:
        weights = weights_of(made(name)[0])
        times, bytes_ = (
            seconds(name, options.rounds),
            memories(name, options.rounds, options.threads),
        )
        base_times, base_bytes = times["forward and backward"], bytes_["forward and backward"]
        for way in WAYS:
            ratio = statistics.median(t / b for t, b in zip(times[way], base_times, strict=True))
            taken = statistics.median(bytes_[way]) / (4 * weights)
            above = taken - statistics.median(base_bytes) / (4 * weights)
            lines.append(
                f"| {name} | {weights:,} | {way} | {statistics.median(times[way]):.3f} | "
                f"{ratio:.2f} | {taken:.2f} | {above:.2f} |"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/scoring.py --write benchmarks/scoring.md"
        options.write.write_text(f"# SNIP scores against a pass\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

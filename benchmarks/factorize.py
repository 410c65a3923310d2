"""Factors beside the layer that they stand for: from which rank on they are faster, measured.

    python benchmarks/factorize.py [--write benchmarks/factorize.md]

Each layer and its factors run in turns in one process; a number is the median time of the layer by
the median time of the factors, so above 1 the factors win. The measured break-even is where that
crosses 1 between two ranks, on a straight line; the one by weights is that of the report.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tersor.factorize import factorize_

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Ranks, as shares of the break-even rank by weights."""


@dataclass(frozen=True)
class Case:
    """A layer, a method, the shape of one input, batch sizes."""

    title: str
    build: Callable[[], nn.Module]
    method: str
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    numbers: int = 1  # of which a rank consists


CASES = (
    Case("linear 2048 x 2048", lambda: nn.Linear(2048, 2048), "randomized_svd", (2048,), (1, 32)),
    Case("linear 300 x 784", lambda: nn.Linear(784, 300), "svd", (784,), (1, 32)),
    *(
        Case(
            f"conv 3 x 3, {channels} channels, {side} x {side}",
            lambda channels=channels: nn.Conv2d(channels, channels, 3, padding=1),
            method,
            (channels, side, side),
            (1, 8),
            2 if method == "tucker" else 1,
        )
        for channels, side in ((64, 28), (256, 14))
        for method in ("svd", "spatial_svd", "tucker")
    ),
    Case("linear 1024 x 1024", lambda: nn.Linear(1024, 1024), "tensor_train", (1024,), (1, 32)),
)


def ratio(layer: nn.Module, factors: nn.Module, example: Tensor, seconds: float) -> float:
    """Median time of the layer by that of its factors, in turns."""
    samples: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for module in (layer, factors):
            module(example)
        began, rounds = time.perf_counter(), 0
        while rounds < 7 or (rounds < 200 and time.perf_counter() - began < seconds):
            for module, taken in zip((layer, factors), samples, strict=True):
                start = time.perf_counter()
                module(example)
                taken.append(time.perf_counter() - start)
            rounds += 1
    return statistics.median(samples[0]) / statistics.median(samples[1])


def factors_of(case: Case, layer: nn.Module, rank: int) -> tuple[nn.Module, int, int]:
    """The factors at this rank, the break-even rank by weights, and the largest rank."""
    model = nn.Sequential(layer)
    asked = {"0": (rank,) * case.numbers}
    row = factorize_(model, asked, method=case.method, force=True).rows[0]
    limit, largest = (
        int(str(row[what]).partition(",")[0]) for what in ("break-even rank", "largest rank")
    )
    return model[0], limit, largest


def crossing(ranks: Sequence[int], gains: Sequence[float]) -> str:
    """The rank at which the factors stop being faster."""
    if gains[0] <= 1:
        return f"below {ranks[0]}"
    for (low, high), (before, after) in zip(
        itertools.pairwise(ranks), itertools.pairwise(gains), strict=True
    ):
        if after <= 1:
            return str(round(low + (high - low) * (before - 1) / (before - after)))
    return f"above {ranks[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each comparison")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), float32. Times the layer's "
        "speed, at shares of the break-even rank by weights (in brackets the rank, at most the "
        "largest).",
        "",
        "| layer | method | batch | "
        + " | ".join(f"{share:g}" for share in SHARES)
        + " | break-even by weights | measured |",
        "| --- | --- | ---: |" + " ---: |" * (len(SHARES) + 2),
    ]
    for case in CASES:
        layer = case.build().eval()
        _, limit, largest = factors_of(case, layer, 1)
        ranks = sorted({min(max(1, round(share * limit)), largest) for share in SHARES})
        made = [factors_of(case, layer, rank)[0] for rank in ranks]
        for batch in case.batches:
            example = torch.randn(batch, *case.shape)
            gains = [ratio(layer, factors, example, options.seconds) for factors in made]
            cells = [f"{g:.2f} ({r})" for g, r in zip(gains, ranks, strict=True)]
            cells += [""] * (len(SHARES) - len(cells))
            lines.append(
                f"| {case.title} | {case.method} | {batch} | {' | '.join(cells)} | {limit} | "
                f"{crossing(ranks, gains)} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.write:
        command = "python benchmarks/factorize.py --write benchmarks/factorize.md"
        options.write.write_text(f"# Factors beside their layers\n\n`{command}`\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

"""What k-means codebooks of a weight of 25 million numbers take, and how good they are.

    python benchmarks/codebooks.py [--write benchmarks/codebooks.md]

`exact / least` is the sum of squared errors over a number below which no codebook can be: 1 plus
what is known to be missed at most. The others are over `exact`. Peers run on fewer weights, as many
as they need some seconds for; the ratio of times is on these.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor

from tersor.quantize import INITS, KMeans, kmeans_1d

SIDE = 5000


def timed(function: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The least seconds over some rounds, and the result."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


def own(weight: Tensor, bits: int, rounds: int) -> str:
    """One row: seconds of each init, and errors."""
    cells, best = [], 0.0
    for init in ("exact", *(i for i in INITS if i != "exact")):

        def cluster(init: str = init) -> Any:
            draw = torch.Generator().manual_seed(0)
            return kmeans_1d(weight, 2**bits, init=init, generator=draw)

        seconds, found = timed(cluster, rounds)
        if init == "exact":
            best = found.wcss
            cells += [f"{seconds:.2f}", f"{found.wcss / found.least - 1:.0e}"]
        else:
            cells += [f"{seconds:.2f}", f"{found.wcss / best:.3f}"]
    return f"| {bits} | {' | '.join(cells)} |"


def beside_sklearn(bits: int, count: int, rounds: int) -> str:
    """One row: scikit-learn's KMeans with its defaults (k-means++, one start) on some weights."""
    weight = torch.randn(count, generator=torch.Generator().manual_seed(1))
    ours, found = timed(lambda: kmeans_1d(weight, 2**bits, init="exact"), rounds)
    column = weight.numpy().astype(np.float64)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, model = timed(
            lambda: SklearnKMeans(2**bits, n_init=1, random_state=0).fit(column), 1
        )
    ratio = model.inertia_ / found.wcss
    return f"| {bits} | {count:,} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} | {ratio:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    lines = [
        f"torch {torch.__version__}, 1 thread, {weight.numel():,} normal float32 weights; least of "
        f"{options.rounds} rounds. Seconds hold the sort and the code of each weight.",
        "",
        "| bits | exact, s | exact / least - 1 | linear, s | / exact | density, s | / exact | "
        "random, s | / exact |",
        "| ---: |" + " ---: |" * 8,
        *(own(weight, bits, options.rounds) for bits in range(1, 9)),
        "",
        "A codebook for each of the 5,000 channels, and quantizing as `quantize_` does:",
        "",
        "| quantizer | seconds |",
        "| --- | ---: |",
    ]
    quantizers = [KMeans(4, "exact"), KMeans(4, granularity="channel")]
    quantizers.append(KMeans(4, "exact", granularity="channel"))
    for quantizer in quantizers:
        seconds, _ = timed(lambda q=quantizer: q(weight), 1)
        lines.append(f"| `{quantizer}` | {seconds:.1f} |")
    lines += [
        "",
        "Beside scikit-learn's `KMeans` (k-means++, one start):",
        "",
        "| bits | weights | ours, s | theirs, s | times as fast | their error / ours |",
        "| ---: |" + " ---: |" * 5,
        *(beside_sklearn(*case, options.rounds) for case in ((2, 10**6), (4, 10**6), (8, 10**5))),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/codebooks.py --write benchmarks/codebooks.md"
        options.write.write_text(
            f"# k-means codebooks of 25 million weights\n\n`{command}`\n\n{text}"
        )


if __name__ == "__main__":
    main()

"""K-means codebooks against even grids at equal bytes of the file, as they are and after training.

    python experiments/quantization/codebooks.py --data-dir DIR [--nets FOLDER] [--write]

LeNet-300-100 and LeNet-5 on MNIST, three seeds. What was made is kept in `runs/` as files, whose
bytes are measured anew each time.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from dense import NETS, dense, task_of
from running import kept, options, put, table

from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.quantize import (
    Affine,
    CodebookTuner,
    KMeans,
    QuantizedTraining,
    Quantizer,
    StraightThrough,
    codebooks_of,
    quantize_,
)
from tersor.store import load, save
from tersor.tasks import Task, build_model
from tersor.train import Stepper

HERE = Path(__file__).parent
NETWORKS = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
STEPS = 200
RATES = {"codebook": 5e-5, "affine": 5e-4}  # a centroid moves thousands of weights at once
GRIDS: dict[str, Callable[[int], Affine]] = {
    "tensor": lambda bits: Affine(bits, "tensor", range="mse"),
    "channel": lambda bits: Affine(bits, range="mse"),
    "groups of 64": lambda bits: Affine(bits, "group", 64, range="mse"),
}


def quantizers(tuned: bool) -> dict[tuple[str, int], Quantizer]:
    """What is compared: kind and bits to a quantizer; what is trained stops at 4 bits."""
    bits = range(1, 5 if tuned else 9)
    found: dict[tuple[str, int], Quantizer] = {("k-means", b): KMeans(b) for b in bits}
    for kind, make in GRIDS.items():
        if not (tuned and kind == "groups of 64"):
            found |= {(kind, b): make(b) for b in bits if b > 1}  # 1 bit has no grid with a zero
    return found


def made(network: str, quantizer: Quantizer, tuned: bool, seed: int, task: Task, nets: Path) -> Any:
    """The quantized network, trained on or not."""
    model = dense(network, task, seed, nets)
    quantize_(model, quantizer)
    if not tuned:
        return model
    seed_everything(seed, "codebooks against affine")
    if isinstance(quantizer, KMeans):
        method: Any = CodebookTuner(model, codebooks_of(model))
        rate = RATES["codebook"]
    else:
        model = dense(network, task, seed, nets)  # the hidden weights are the dense ones
        method = QuantizedTraining(model, StraightThrough(quantizer))
        rate = RATES["affine"]
    falling = lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS))  # noqa: E731
    optimizer = torch.optim.Adam(model.parameters(), rate)
    Stepper(model, task, optimizer, seed=seed, rate=falling).run(STEPS, methods=[method])
    return model


def cell(
    network: str, key: tuple[str, int], tuned: bool, seed: int, task: Task, nets: Path
) -> dict[str, float]:
    """Error and bytes of one file."""
    kind, bits = key
    words = f"{network}-{seed}-{kind}-{bits}{'-tuned' if tuned else ''}".replace(" ", "-")
    file = HERE / "runs" / "codebooks" / f"{words}.terse"

    def compute() -> float:
        model = made(network, quantizers(tuned)[key], tuned, seed, task, nets)
        file.parent.mkdir(parents=True, exist_ok=True)
        save(model, file)
        return evaluate(_read(network, file), task.test).percent

    settings = {"experiment": "codebooks", "network": network, "kind": kind, "bits": bits}
    settings |= {"tuned": tuned, "seed": seed, "steps": STEPS}
    return {"error": kept(HERE, settings, compute), "bytes": _bytes(_read(network, file))}


def rows(network: str, tuned: bool, seeds: int, task: Task, nets: Path) -> list[dict[str, str]]:
    """A row for each number of bits; the last column is the affine file for the same bytes."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for key in quantizers(tuned):
        cells = [cell(network, key, tuned, seed, task, nets) for seed in range(seeds)]
        means = (statistics.mean(c[name] for c in cells) for name in ("bytes", "error"))
        found[key] = (next(means), next(means))
    lines = []
    for bits in dict.fromkeys(b for _, b in found):
        line = {"bits": str(bits)}
        for kind in ("k-means", *GRIDS):
            if (kind, bits) in found:
                size, error = found[kind, bits]
                line[kind] = f"{size:,.0f} B: {error:.2f}"
        line["affine, no more bytes than k-means"] = _rival(found, bits)
        lines.append(line)
    columns = list(dict.fromkeys(c for line in lines for c in line))
    columns.append(columns.pop(columns.index("affine, no more bytes than k-means")))
    return [{c: line.get(c, "") for c in columns} for line in lines]


def _rival(found: dict[tuple[str, int], tuple[float, float]], bits: int) -> str:
    """The affine file of the least error among those that are no larger than the k-means file."""
    most = found["k-means", bits][0]
    fit = [(e, k, b) for (k, b), (size, e) in found.items() if k != "k-means" and size <= most]
    if not fit:
        return "none"
    error, kind, width = min(fit)
    return f"{error:.2f} ({kind}, {width} bits)"


def _read(network: str, file: Path) -> nn.Module:
    return load(file, into=build_model(network)).eval()


def _bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(model, path := Path(folder) / "net.terse")
        return path.stat().st_size


def main() -> None:
    given = options(__doc__, nets=str(NETS), networks=",".join(NETWORKS))
    parts = []
    for network in given.networks.split(","):
        task = task_of(network, given.data_dir)
        reference = [
            kept(
                HERE,
                {"experiment": "codebooks", "network": network, "kind": "dense", "seed": seed},
                partial(_dense_error, network, task, seed, Path(given.nets)),
            )
            for seed in range(1 if given.quick else given.seeds)
        ]
        for tuned in (False,) if given.quick else (False, True):
            lines = rows(network, tuned, len(reference), task, Path(given.nets))
            how = f"trained {STEPS} steps" if tuned else "as they are"
            title = f"{NETWORKS[network]}, dense {statistics.mean(reference):.2f} %, {how}:"
            parts.append(f"{title}\n\n{table(lines)}")
            print(f"{parts[-1]}\n", flush=True)
    if given.write:
        put(HERE / "README.md", "codebooks", "\n\n".join(parts))


def _dense_error(network: str, task: Task, seed: int, nets: Path) -> float:
    return evaluate(dense(network, task, seed, nets), task.test).percent


if __name__ == "__main__":
    main()

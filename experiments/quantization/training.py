"""Training with quantized weights: every rule on LeNet-5, and the 4-bit and ternary bars.

    python experiments/quantization/training.py --data-dir DIR [--nets FOLDER] [--only NAME,...]

Each run begins with the trained dense network of `dense.py` and trains on for a few epochs with
one rule on all weights, first and last layers too (biases and normalisation stay float). The
network after the last epoch is measured; the test set has no say in any choice.
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from dense import NETS, dense, task_of
from running import kept, mean_and_range, options, put, table

from tersor import evaluate
from tersor.core.seeding import seed_everything
from tersor.quantize import (
    TRAININGS,
    Affine,
    DoReFa,
    Incremental,
    LearnedLevels,
    LearnedStep,
    QuantizedTraining,
    SoftStair,
    StraightThrough,
    Ternary,
    quantize_,
)
from tersor.train import Stepper

HERE = Path(__file__).parent

# Title to what makes the method for a model and a number of steps.
RUNS = {
    "float": None,
    "LSQ 4": lambda m, n: QuantizedTraining(m, LearnedStep(4)),
    "LSQ 3": lambda m, n: QuantizedTraining(m, LearnedStep(3)),
    "LSQ 2": lambda m, n: QuantizedTraining(m, LearnedStep(2)),
    "affine 4": lambda m, n: QuantizedTraining(m, StraightThrough(Affine(4))),
    "affine 4 with noise 0.2": lambda m, n: QuantizedTraining(m, Affine(4), noise=0.2, end=n),
    "DSQ 4": lambda m, n: QuantizedTraining(m, SoftStair(4)),
    "DSQ 2": lambda m, n: QuantizedTraining(m, SoftStair(2)),
    "levels 3 with weights": lambda m, n: QuantizedTraining(m, LearnedLevels(3, True)),
    "INQ 5": lambda m, n: QuantizedTraining(m, Incremental(n // 4)),
    "TTQ": lambda m, n: QuantizedTraining(m, "ttq"),
    "TWN": lambda m, n: QuantizedTraining(m, "twn"),
    "TWN exact by channel": lambda m, n: QuantizedTraining(m, TRAININGS["twn"]("channel", "exact")),
    "LAT": lambda m, n: QuantizedTraining(m, TRAININGS["lab"](Ternary(method="exact"))),
    "binary (XNOR weights)": lambda m, n: QuantizedTraining(m, "xnor"),
    "LAB": lambda m, n: QuantizedTraining(m, "lab"),
    "DoReFa 3": lambda m, n: QuantizedTraining(m, DoReFa(3)),
}
"""Every rule on LeNet-5; the other networks have the first five."""

AT_ONCE = {"LSQ 4": Affine(4, "tensor"), "affine 4": Affine(4), "TWN": Ternary()}
"""What the quantizer alone would do, without any training."""

RATES = {"lenet-300-100": 2e-3, "lenet-5": 1e-3, "resnet-8": 1e-3}
"""The learning rate of Adam at first; it falls to zero as a cosine."""


def one(network: str, run: str, seed: int, steps: int, data_dir: str | None, nets: str) -> Any:
    """Train on with one rule; errors on the test set before, at once and after."""
    task = task_of(network, data_dir)
    model = dense(network, task, seed, Path(nets))
    before = evaluate(model, task.test).percent
    at_once = None
    if run in AT_ONCE:
        state = {n: t.clone() for n, t in model.state_dict().items()}
        quantize_(model, AT_ONCE[run])
        at_once = evaluate(model, task.test).percent
        model.load_state_dict(state)
    seed_everything(seed, "quantized training", run)
    make = RUNS[run]
    methods = [] if make is None else [make(model, steps)]
    optimizer = torch.optim.Adam(model.parameters(), RATES[network])
    stepper = Stepper(
        model,
        task,
        optimizer,
        seed=seed,
        rate=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    stepper.run(steps, methods=methods)
    report = methods[0].report() if methods else None
    assert report is None or report.summary["finished"]
    values = max((row["values"] or 0 for row in report.rows), default=0) if report else None
    return {
        "dense": before,
        "at once": at_once,
        "after": evaluate(model, task.test).percent,
        "bits": report.rows[0]["bits"] if report else 32,
        "values": values,
    }


def main() -> None:
    given = options(__doc__, seeds=1, nets=str(NETS), only="", networks="")
    names = list(RUNS)
    plan = [("lenet-300-100", r, 860) for r in names[:5]] + [("lenet-5", r, 860) for r in names]
    plan += [("resnet-8", r, 704) for r in ("LSQ 4", "affine 4")]
    rows = []
    for network, run, steps in plan:
        if given.only and run not in given.only.split(","):
            continue
        if given.networks and network not in given.networks.split(","):
            continue
        steps = steps // 4 if given.quick else steps
        found = []
        for seed in range(1 if network == "resnet-8" else given.seeds):
            settings = {"network": network, "run": run, "seed": seed, "steps": steps, "version": 1}
            found.append(
                kept(
                    HERE,
                    settings,
                    lambda s=settings: one(  # type: ignore[misc]
                        s["network"], s["run"], s["seed"], s["steps"], given.data_dir, given.nets
                    ),
                )
            )
        first = found[0]
        rows.append(
            {
                "network": network,
                "rule": run,
                "bits": f"{first['bits']:.3g}",
                "dense error %": mean_and_range([r["dense"] for r in found]),
                "quantized at once": ""
                if first["at once"] is None
                else mean_and_range([r["at once"] for r in found]),
                "trained": mean_and_range([r["after"] for r in found]),
                "change, points": f"{statistics.mean(r['after'] - r['dense'] for r in found):+.2f}",
                "steps": steps,
            }
        )
        print(rows[-1], flush=True)
    print(table(rows))
    if given.write:
        put(HERE / "README.md", "training", table(rows))


if __name__ == "__main__":
    main()

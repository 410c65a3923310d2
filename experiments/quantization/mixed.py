"""Mixed precision against one width for all, at the same bits a weight.

    python experiments/quantization/mixed.py --data-dir DIR [--quick] [--write]

LeNet-5 on MNIST (three seeds) and ResNet-8 on CIFAR-10 (one, its batch norms folded), weights alone
and no training afterwards. Every result is kept in `runs/`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from dense import NETS, dense, task_of
from running import kept, options, put, table

from tersor.core.seeding import seed_everything
from tersor.core.weights import prunable
from tersor.measure import evaluate
from tersor.prune import FirstBatches
from tersor.quantize import (
    SENSITIVITIES,
    Affine,
    Binary,
    KMeans,
    Quantizer,
    fold_batch_norms_,
    gptq_,
    mixed_precision,
    quantize_,
)
from tersor.quantize.bit_costs import Cost, Sensitivity, Trial
from tersor.tasks import Task

FOLDER = Path(__file__).parent
LOSS_BATCHES = 4  # of 128 training samples; what is about curvature sees the first of them alone
CURVED = ("hawq", "hawq_v2", "q_bert")
BUDGETS = (2, 3, 4)
LABELS = {"lenet-5": "LeNet-5", "resnet-8": "ResNet-8"}
FAMILIES: dict[str, list[Quantizer]] = {
    "k-means": [KMeans(bits) for bits in (1, 2, 3, 4, 5, 6, 8)],
    "affine": [Binary(), *(Affine(bits, range="mse") for bits in (2, 3, 4, 5, 6, 8))],
}

RECONSTRUCTED = "affine, GPTQ"
FAMILIES[RECONSTRUCTED] = [Affine(bits, range="mse") for bits in (2, 3, 4, 5, 6, 8)]
RULES = {RECONSTRUCTED: ("loss", "sqnr")}  # of ResNet-8 alone, which has something to gain


def curvatures(name: str, rule: str, seed: int, task: Task, nets: Path) -> list[float]:
    """What a rule says of each weight's curvature: the same for all quantizers, told once."""
    model = prepared(name, task, seed, nets)
    data = [part for batch in samples(task, seed, 1) for part in in_parts(*batch)]
    _, report = mixed_precision(
        model, [Affine(8)], 8, sensitivity=rule, data=data, loss=task.loss, seed=seed
    )
    told = [set(row) - {"name", "kept", "quantizer", "bits", "cost at 8"} for row in report.rows]
    return [float(row[label]) for row, [label] in zip(report.rows, told, strict=True)]


def one(name: str, family: str, seed: int, task: Task, nets: Path) -> dict[str, Any]:
    """Test errors in percent and the chosen widths, by way and budget."""
    quantizers = FAMILIES[family]
    model = prepared(name, task, seed, nets)
    weights = [weight.name for weight in prunable(model)]
    errors: dict[tuple[float, ...], float] = {}

    def error_with(chosen: dict[str, Quantizer]) -> float:
        widths = tuple(chosen[name].bits for name in weights)
        if widths not in errors:
            model = prepared(name, task, seed, nets)
            if family == RECONSTRUCTED:
                gptq_(model, chosen, samples(task, seed, LOSS_BATCHES))
            else:
                quantize_(model, chosen)
            errors[widths] = evaluate(model, task.test, mistakes=task.mistakes).percent
        return errors[widths]

    found: dict[str, Any] = {"dense": evaluate(model, task.test, mistakes=task.mistakes).percent}
    for budget in BUDGETS:
        [even] = [q for q in quantizers if q.bits == budget]
        found[f"one width, {budget}"] = error_with(dict.fromkeys(weights, even))
    for rule in RULES.get(family, SENSITIVITIES):
        values = []
        if rule in CURVED:
            settings = {"experiment": "curvatures", "network": name, "rule": rule, "seed": seed}
            values = kept(FOLDER, settings, partial(curvatures, name, rule, seed, task, nets))
        costs = known_costs(rule, values)
        for budget in BUDGETS:
            data = samples(task, seed, LOSS_BATCHES)
            chosen, report = mixed_precision(
                model, quantizers, budget, sensitivity=costs, data=data, loss=task.loss, seed=seed
            )
            found[f"{rule}, {budget}"] = error_with(chosen)
            found[f"widths {rule}, {budget}"] = [row["bits"] for row in report.rows]
            found[f"bits {rule}, {budget}"] = report.summary["bits a weight"]
    return found


def known_costs(rule: str, values: list[float]) -> Sensitivity:
    """The costs of a rule, made once for all budgets; of a curvature from the one that is known."""
    found: list[Cost] = []

    def costs(model: nn.Module, trials: Sequence[Trial], *rest: Any) -> list[Cost]:
        if not found and values:
            for trial, value in zip(trials, values, strict=True):
                found.append(Cost([abs(value) / 2 * e for e in trial.squared_errors()], {}))
        if not found:
            found.extend(SENSITIVITIES[rule](model, trials, *rest))
        return found

    return costs


def samples(task: Task, seed: int, batches: int) -> list[tuple[Tensor, Tensor]]:
    seed_everything(seed, "mixed")
    return list(FirstBatches(task.train, batches))


def in_parts(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A batch as four: q_bert compares shares of the data."""
    return list(zip(inputs.chunk(4), targets.chunk(4), strict=True))


def prepared(name: str, task: Task, seed: int, nets: Path) -> nn.Module:
    model = dense(name, task, seed, nets)
    if name == "resnet-8":
        fold_batch_norms_(model)
    return model


def main() -> None:
    given = options(__doc__, nets=str(NETS), only="")
    errors: list[dict[str, Any]] = []
    widths: list[dict[str, Any]] = []
    for name in [given.only] if given.only else list(LABELS):
        task = task_of(name, given.data_dir)
        seeds = range(1 if name == "resnet-8" or given.quick else given.seeds)
        for family in FAMILIES:
            if family == RECONSTRUCTED and name != "resnet-8":
                continue
            rules = RULES.get(family, SENSITIVITIES)
            settings = {"experiment": "mixed", "network": name, "family": family}
            found = [
                kept(
                    FOLDER,
                    settings | {"seed": seed, "batches": LOSS_BATCHES},
                    partial(one, name, family, seed, task, Path(given.nets)),
                )
                for seed in seeds
            ]
            where = {"network": LABELS[name], "values": family}
            for way in ("one width", *rules):
                row = where | {"widths by": way}
                for budget in BUDGETS:
                    value = statistics.mean(run[f"{way}, {budget}"] for run in found)
                    row[f"{budget} bits"] = f"{value:.2f}"
                errors.append(row)
            row = where | {"widths by": "dense"}
            errors.append(row | {"2 bits": f"{statistics.mean(r['dense'] for r in found):.2f}"})
            for rule in rules:
                row = where | {"widths by": rule}
                for budget in BUDGETS:
                    row[f"{budget} bits"] = " ".join(
                        f"{bits:g}" for bits in found[0][f"widths {rule}, {budget}"]
                    )
                widths.append(row)
    text = table(errors) + "\n\nThe widths themselves, layer after layer, seed 0:\n\n"
    text += table(widths)
    print(text)
    if given.write:
        put(FOLDER / "README.md", "mixed", text)


if __name__ == "__main__":
    main()

"""Masks without labels, masks of another data set, controls, shapes, and where layers collapse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from running import kept, mean_and_range, table
from training import draw, prune, redraw, scoring_data, task_of, train

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.initial import (
    critical_density,
    initialise_,
    inverted,
    sculpt_,
    shuffled,
    transfer_,
    variance_scaling_,
)
from tersor.tasks.networks.mlp import mlp

STEPS, QUICK = 1000, 300
MNIST, FASHION = "mnist", "fashion-mnist"


def _results(folder: Path, settings: dict[str, Any], seeds: int, compute: Any) -> list[Any]:
    return [
        kept(folder, settings | {"seed": seed}, lambda seed=seed: compute(seed))
        for seed in range(seeds)
    ]


def transfer(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """LeNet-300-100 at 95 %: masks of either data set, with and without labels, on either."""
    steps, density = QUICK if quick else 4 * STEPS, 0.05
    rows = []
    for source, loss in [
        (None, "labels"),
        ("same", "labels"),
        ("other", "labels"),
        ("same", "uniform"),
        ("other", "uniform"),
        ("same", "prediction"),
        ("same", "soft"),
    ]:
        row = {
            "masks of": {None: "(random)", "same": "the same data", "other": "the other data"}[
                source
            ],
            "target of the loss": {"labels": "" if source is None else "labels"}.get(loss, loss),
        }
        for target in (MNIST, FASHION):
            other = FASHION if target == MNIST else MNIST
            origin = {"same": target, "other": other, None: None}[source]

            def compute(seed: int, t: str = target, o: str | None = origin, w: str = loss) -> Any:
                task = task_of(t, 100, data_dir)
                seen = task_of(o or t, 100, data_dir)
                found = prune(
                    draw("lenet-300-100", seen, seed),
                    density,
                    scoring_data(seen, seed, loss=w),
                    "random" if o is None else "snip",
                )
                net = draw("lenet-300-100", task, seed, "transfer")
                masks, _ = transfer_(net, found)
                return train(net, task, masks, steps=steps, rate=0.1, seed=seed)

            settings = {"part": "transfer", "on": target, "of": origin, "loss": loss}
            results = _results(folder, settings | {"steps": steps}, seeds, compute)
            row[f"error % on {target}"] = mean_and_range([r["test error"] for r in results])
        rows.append(row)
    return table(rows)


WAYS = ("as found", "masks shuffled in each layer", "weights drawn again", "scores inverted")


def controls(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """LeNet-300-100 at 98 %, by each method, and with one part of it taken away."""
    steps, density = QUICK if quick else STEPS, 0.02
    # criterion: rounds, allocation, batches that are scored
    methods = {
        "snip": (1, "global", 1),
        "grasp": (1, "global", 3),
        "synflow": (20 if quick else 100, "global", 1),
        "magnitude": (1, "global", 1),
        "random": (1, "uniform", 1),
        "random, ERK": (1, "erk", 1),
    }
    rows = []
    for name, (rounds, allocation, batches) in methods.items():
        row = {"method": name if rounds == 1 else f"{name}, {rounds} rounds"}
        for way in WAYS if not name.startswith("random") else WAYS[:1]:

            def compute(
                seed: int,
                n: str = name,
                w: str = way,
                r: int = rounds,
                a: str = allocation,
                b: int = batches,
            ) -> Any:
                task = task_of(MNIST, 100, data_dir)
                net = draw("lenet-300-100", task, seed)
                criterion = n.partition(",")[0]
                data = scoring_data(task, seed, batches=b)
                try:
                    masks, _ = prune_(
                        net, density, criterion=criterion, allocation=a, rounds=r, data=data
                    )
                except ConfigError:  # the layer has collapsed, which is a result too
                    return None
                if w != "as found":
                    net = draw("lenet-300-100", task, seed)
                if w == "masks shuffled in each layer":
                    masks = shuffled(masks, seed=seed)
                elif w == "weights drawn again":
                    redraw(net, seed)
                elif w == "scores inverted":  # with the same counts in every layer
                    counts = {n: float(m.double().mean()) for n, m in masks.items()}
                    masks, _ = prune_(net, counts, criterion=inverted(criterion), data=data)
                masks.apply(net)
                return train(net, task, masks, steps=steps, rate=0.1, seed=seed)

            settings = {"part": "controls", "method": name, "way": way, "rounds": rounds}
            results = _results(folder, settings | {"steps": steps}, seeds, compute)
            errors = [r["test error"] for r in results if r is not None]
            row[way] = mean_and_range(errors) if len(errors) == seeds else "a layer is empty"
        rows.append(row)
    return table(rows)


def sculpting(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """Networks of several widths, pruned to the weights of 784-100-100-10, and that one dense."""
    steps = QUICK if quick else STEPS
    reference = 784 * 100 + 100 * 100 + 100 * 10
    rows = []
    for width in (100, 200, 400, 800):

        def compute(seed: int, w: int = width) -> Any:
            from tersor.core.seeding import seed_everything

            task = task_of(MNIST, 100, data_dir)
            seed_everything(seed, "first weights")
            net = mlp((1, 28, 28), 10, widths=(w, w))
            initialise_(net, variance_scaling_)
            masks, _ = sculpt_({"": net}, reference, data=scoring_data(task, seed))
            return train(net, task, masks[""], steps=steps, rate=0.1, seed=seed)

        settings = {"part": "sculpting", "width": width, "steps": steps}
        results = _results(folder, settings, seeds, compute)
        total = 784 * width + width * width + width * 10
        rows.append(
            {
                "network": f"784-{width}-{width}-10",
                "sparsity %": "dense"
                if total == reference
                else f"{100 * (1 - reference / total):.1f}",
                "kept": f"{sum(results[0]['kept'].values()):,}",
                "error %": mean_and_range([r["test error"] for r in results]),
            }
        )
    return table(rows)


def collapse(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    """The fewest weights that LeNet-300-100 keeps by each method before a layer is empty."""
    rows = []
    for name, rounds in [
        ("random", 1),
        ("magnitude", 1),
        ("snip", 1),
        ("snip", 20),
        ("grasp", 1),
        ("synflow", 1),
        ("synflow", 20),
    ]:

        def compute(seed: int, n: str = name, r: int = rounds) -> Any:
            task = task_of(MNIST, 100, data_dir)
            net = draw("lenet-300-100", task, seed)
            data = scoring_data(task, seed)
            return dict(critical_density(net, criterion=n, rounds=r, data=data).summary)

        results = _results(
            folder, {"part": "collapse", "method": name, "rounds": rounds}, seeds, compute
        )
        rows.append(
            {
                "method": name,
                "rounds": rounds,
                "fewest weights": mean_and_range([r["kept"] for r in results], 0),
                "critical compression": mean_and_range([r["compression"] for r in results], 0),
            }
        )
    return table(rows)

"""Masks over random weights: how good without training one of them; twenty tasks in one network.

1. LeNet-300-100 on MNIST: edge-popup at three densities and the stochastic supermask, beside the
   trained dense network, random masks, and random masks whose weights are trained.
2. Twenty permutations of MNIST in one network (SupSup): the task given, or found from one image,
   beside twenty networks trained one by one.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import kept, mean_and_range, options, put, table

from tersor import HeldMasks, Task, build_model, evaluate, load_task, prune_, seed_everything
from tersor.core.seeding import generator
from tersor.prune.learned import finalize_
from tersor.prune.scoring import ScoringData
from tersor.prune.supermasks import SupSup, edge_popup_, signed_constant_, stochastic_mask_
from tersor.train import Stepper

HERE = Path(__file__).parent
OUTPUTS = 100  # of the network for permuted MNIST: 10 classes and 90 superfluous neurons


def single(method: str, density: float, seed: int, steps: int, data_dir: str | None) -> Any:
    """One network on MNIST: test error and the share of weights in use."""
    task = load_task("mnist", data_dir=data_dir)
    seed_everything(seed, "supermasks")
    model = build_model("lenet-300-100")
    methods, drawn = [], None
    if method in ("edge_popup", "stochastic", "random"):
        signed_constant_(model, density, seed=seed)
    if method == "edge_popup":
        edge_popup_(model, density, seed=seed)
    elif method == "stochastic":
        stochastic_mask_(model)
    elif method != "dense":
        draw = ScoringData(seed=seed)
        masks, _ = prune_(model, density, criterion="random", allocation="uniform", data=draw)
        methods = [HeldMasks(model, masks)]
    if method != "random":
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9)
        if method == "stochastic":  # a score's gradient is small, and it has far to go
            optimizer = torch.optim.Adam(trained, 0.5)
        Stepper(model, task, optimizer, seed=seed, rate=lambda step: decay(step, steps)).run(
            steps, methods=methods
        )
    if method == "stochastic":
        drawn = error_of_draws(model, task)
    if method in ("edge_popup", "stochastic"):
        finalize_(model)
    weights = [p for p in model.parameters() if p.dim() > 1]
    return {
        "density": sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights),
        "validation": evaluate(model, task.validation).percent,
        "test": evaluate(model, task.test).percent,
        "drawn": drawn,
    }


@torch.no_grad()
def error_of_draws(model: nn.Module, task: Task, draws: int = 5) -> float:
    """The mean test error when a mask is drawn for each batch, as the paper has it."""
    model.train()
    torch.manual_seed(0)
    wrong = [
        (model(x).argmax(dim=1) != y).float().mean().item()
        for _ in range(draws)
        for x, y in task.test
    ]
    return 100 * sum(wrong) / len(wrong)


def decay(step: int, steps: int) -> float:
    """Cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class Permuted:
    """Batches whose pixels are in another order."""

    def __init__(self, batches: Any, order: Tensor) -> None:
        self.batches, self.order = batches, order

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        for inputs, targets in self.batches:
            yield inputs.flatten(1)[:, self.order].view_as(inputs), targets


def permuted(task: Task, number: int) -> Task:
    """MNIST with the pixels in the order that belongs to a number; 0 too is a permutation."""
    order = torch.randperm(784, generator=generator(0, "permutation", number))
    parts = {p: Permuted(getattr(task, p), order) for p in ("train", "validation", "test")}
    return dataclasses.replace(task, name=f"permutation {number}", **parts)


def train(model: nn.Module, task: Task, seed: int, steps: int, rate: float) -> None:
    """RMSprop, as in the authors' code, on what can be trained."""
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], rate)
    Stepper(model, task, optimizer, seed=seed, rate=lambda s: decay(s, steps)).run(steps)


def many(seed: int, tasks: int, steps: int, images: int, data_dir: str | None) -> Any:
    """Twenty tasks in one network; error with the task given, and how often it is found."""
    mnist = load_task("mnist", data_dir=data_dir)
    permutations = [permuted(mnist, number) for number in range(tasks)]
    seed_everything(seed, "supsup")
    supsup = SupSup(build_model("lenet-300-100", classes=OUTPUTS), density=None, seed=seed)
    for task in permutations:
        supsup.learn(task.name, lambda m, t=task: train(m, t, seed, steps, 1e-3))  # type: ignore
    path = HERE / "runs" / f"supsup-{seed}.pt"
    supsup.save(path)
    supsup = SupSup.load(path, build_model("lenet-300-100", classes=OUTPUTS))
    given = []
    for task in permutations:
        supsup.use(task.name)
        given.append(evaluate(supsup.model, task.test).percent)
    ways = [(s, o) for s in ("one_shot", "binary") for o in ("entropy", "superfluous")]
    right = dict.fromkeys(ways, 0)
    correct = dict.fromkeys(ways, 0)
    for task in permutations:
        inputs, targets = next(iter(task.test))
        for image, target in zip(inputs[:images].split(1), targets[:images], strict=True):
            for search, objective in ways:
                found = supsup.infer(image, classes=10, search=search, objective=objective)
                right[search, objective] += found == task.name
                supsup.use(found)
                with torch.no_grad():
                    said = supsup.model.eval()(image)[0, :10].argmax()
                correct[search, objective] += bool(said == target)
    seen = tasks * images
    return {
        "given": sum(given) / tasks,
        "worst": max(given),
        "bytes": path.stat().st_size,
        "bits a task": supsup.bits_per_task,
        "found": {f"{s}, {o}": 100 * right[s, o] / seen for s, o in ways},
        "error": {f"{s}, {o}": 100 - 100 * correct[s, o] / seen for s, o in ways},
    }


def separate(seed: int, tasks: int, steps: int, data_dir: str | None) -> Any:
    """As many dense networks, each trained on one of the tasks."""
    mnist = load_task("mnist", data_dir=data_dir)
    errors = []
    for number in range(tasks):
        task = permuted(mnist, number)
        seed_everything(seed, "separate", number)
        model = build_model("lenet-300-100")
        train(model, task, seed, steps, 1e-3)
        errors.append(evaluate(model, task.test).percent)
    return {"error": sum(errors) / tasks, "bytes": 4 * tasks * 266_610}


TITLES = {
    "dense": "dense, trained",
    "trained_random": "random mask, weights trained",
    "edge_popup": "edge-popup",
    "stochastic": "stochastic supermask",
    "random": "random mask, nothing trained",
}


def main() -> None:
    given = options(__doc__, first=0, only="", tasks=20, task_steps=300, images=40)
    seeds = range(given.first, given.first + (1 if given.quick else given.seeds))
    steps = 430 if given.quick else 2150
    plan = [("dense", 1.0)]
    plan += [(m, d) for m in ("edge_popup", "trained_random") for d in (0.3, 0.5, 0.7)]
    plan += [("stochastic", 0.5), ("random", 0.5)]
    rows: list[dict[str, Any]] = []
    points = []
    for method, density in plan:
        if given.only and given.only != method:
            continue
        found = []
        for seed in seeds:
            settings = {"method": method, "density": density, "steps": steps, "seed": seed}
            found.append(
                kept(
                    HERE,
                    settings,
                    lambda s=settings: single(  # type: ignore[misc]
                        s["method"], s["density"], s["seed"], s["steps"], given.data_dir
                    ),
                )
            )
        points.append((method, found))
        rows.append(
            {
                "network": TITLES[method],
                "weights in use %": mean_and_range([100 * r["density"] for r in found], 1),
                "test error %": mean_and_range([r["test"] for r in found]),
            }
        )
        if method == "stochastic":
            error = mean_and_range([r["drawn"] for r in found])
            rows.append({"network": "the same, a mask drawn for each batch", "test error %": error})
        print(rows[-1], [r["validation"] for r in found], flush=True)
    if given.only not in ("", "supsup"):
        return
    tasks, task_steps, images = (
        (5, 100, 10) if given.quick else (given.tasks, given.task_steps, given.images)
    )
    together, apart = [], []
    for seed in seeds:
        shared = {"seed": seed, "tasks": tasks, "steps": task_steps}
        together.append(
            kept(
                HERE,
                shared | {"images": images},
                lambda s=shared: many(  # type: ignore[misc]
                    s["seed"], s["tasks"], s["steps"], images, given.data_dir
                ),
            )
        )
        print(together[-1], flush=True)
        apart.append(
            kept(
                HERE,
                shared | {"separate": True},
                lambda s=shared: separate(  # type: ignore[misc]
                    s["seed"], s["tasks"], s["steps"], given.data_dir
                ),
            )
        )
    many_rows = [
        {
            "what": f"{tasks} dense networks, trained one by one",
            "test error %": mean_and_range([r["error"] for r in apart]),
            "bytes": f"{apart[0]['bytes']:,}",
        },
        {
            "what": "SupSup, task given",
            "test error %": mean_and_range([r["given"] for r in together]),
            "bytes": f"{together[0]['bytes']:,}",
        },
    ]
    for way in together[0]["found"]:
        many_rows.append(
            {
                "what": f"SupSup, task found from one image ({way})",
                "task found %": mean_and_range([r["found"][way] for r in together], 1),
                "test error %": mean_and_range([r["error"][way] for r in together], 1),
            }
        )
    many_rows = [{c: r.get(c, "") for c in _COLUMNS} for r in many_rows]
    print(table(rows), table(many_rows), sep="\n\n")
    if given.write:
        put(HERE / "README.md", "mnist", table(rows))
        put(HERE / "README.md", "supsup", table(many_rows))
        picture(points, together, apart, tasks)


_COLUMNS = ("what", "task found %", "test error %", "bytes")


def picture(points: Any, together: Any, apart: Any, tasks: int) -> None:
    """Errors of the single networks against density, and of the many tasks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    marks = {"dense": "ko", "trained_random": "C7s", "edge_popup": "C0o", "stochastic": "C1^"}
    for method, mark in marks.items():
        runs = [run for name, found in points if name == method for run in found]
        shares = [100 * run["density"] for run in runs]
        left.plot(shares, [run["test"] for run in runs], mark, label=TITLES[method], alpha=0.7)
    left.set(xlabel="weights in use, %", ylabel="test error, %", title="MNIST, one network")
    left.set_ylim(bottom=0)
    left.legend(fontsize=7)
    ways = list(together[0]["found"])
    errors = [("one by one", [r["error"] for r in apart])]
    errors += [("task given", [r["given"] for r in together])]
    errors += [(way.replace(", ", ",\n"), [r["error"][way] for r in together]) for way in ways]
    right.bar(range(len(errors)), [sum(e) / len(e) for _, e in errors], color="C0", alpha=0.6)
    for place, (_, found) in enumerate(errors):
        right.plot([place] * len(found), found, "k.")
    right.set_xticks(range(len(errors)), [name for name, _ in errors], fontsize=6)
    right.set(ylabel="test error, %", title=f"{tasks} permutations of MNIST")
    figure.savefig(HERE.parents[1] / "docs" / "images" / "supermasks.png", dpi=110)


if __name__ == "__main__":
    main()

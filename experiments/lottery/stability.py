"""Is LeNet-300-100 stable to the order of the data: the barrier between copies of one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lenet
import torch
from running import kept, mean_and_range, table
from torch import Tensor, nn
from training import adam

from tersor.core.masks import HeldMasks, MaskSet
from tersor.measure import evaluate
from tersor.measure.connectivity import path_between
from tersor.tasks import Task, build_model

FOLDER = Path(__file__).parent
SPARSE_LEVEL = 15
"""3.6 % of the weights."""


def main(seeds: list[int], quick: bool, data_dir: str | None) -> str:
    """Barriers in points of test error, for dense networks and for those with 3.6 % of it."""
    task = lenet.load(data_dir)
    steps = 1_000 if quick else 1_500
    lines = {
        "dense, one start, two orders of the data": "same start",
        "dense, two starts": "two starts",
        "dense, against itself with its hidden units permuted": "permuted",
        "ticket (3.6 %), one start, two orders": "ticket",
        "random mask (3.6 %), one start, two orders": "random-mask",
    }
    search_steps = 1_000 if quick else 15_000
    rows = []
    for title, what in lines.items():
        results = [_measured(task, what, seed, steps, search_steps) for seed in seeds]
        rows.append(
            {
                "networks": title,
                "barrier, points": mean_and_range([r["barrier"] for r in results]),
                "half the difference of the ends": mean_and_range([r["ends"] for r in results]),
                "error of the ends %": mean_and_range([r["error"] for r in results]),
            }
        )
    return table(rows)


def _measured(task: Task, what: str, seed: int, steps: int, search_steps: int) -> dict[str, float]:
    decided_by: dict[str, Any] = {"part": "stability", "what": what, "seed": seed, "steps": steps}
    if what in ("ticket", "random-mask"):
        decided_by["steps of the search"] = search_steps
    return kept(FOLDER, decided_by, lambda: _barrier(task, what, seed, steps, search_steps))


def _barrier(task: Task, what: str, seed: int, steps: int, search_steps: int) -> dict[str, float]:
    masks = None
    if what in ("ticket", "random-mask"):
        search = lenet.tickets(task, seed, steps=search_steps, levels=lenet.CONTROLLED)
        masks = next(x.masks for x in search.levels if x.record.level == SPARSE_LEVEL)
    if what == "random-mask":
        draws = torch.Generator().manual_seed(seed)
        masks = MaskSet(
            {
                name: mask.flatten()[torch.randperm(mask.numel(), generator=draws)].view_as(mask)
                for name, mask in masks.items()
            }
        )
    one = _trained(task, seed, 0, steps, masks)
    if what == "permuted":
        other = permuted(one, seed)
    elif what == "two starts":
        other = _trained(task, seed + 100, 0, steps, masks)
    else:
        other = _trained(task, seed, 1, steps, masks)
    model = build_model("lenet-300-100")
    path = path_between(model, one, other, lambda net: evaluate(net, task.test).percent)
    ends = path.errors[0], path.errors[-1]
    return {
        "barrier": path.barrier,
        "ends": abs(ends[0] - ends[1]) / 2,
        "error": sum(ends) / 2,
    }


def _trained(
    task: Task, start: int, order: int, steps: int, masks: MaskSet | None
) -> dict[str, Tensor]:
    """A start, trained in an order of the data of its own."""
    model: nn.Module = build_model("lenet-300-100")
    trainer = adam(model, task, start, 1.2e-3)
    trainer.seed = 1000 * (order + 1) + start
    trainer.run(steps, methods=[] if masks is None else [HeldMasks(model, masks)])
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def permuted(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same function, its hidden units in another order."""
    draws = torch.Generator().manual_seed(seed)
    moved = dict(state)
    for layer, following in (("fc1", "fc2"), ("fc2", "fc3")):
        order = torch.randperm(len(state[f"{layer}.bias"]), generator=draws)
        moved[f"{layer}.weight"] = moved[f"{layer}.weight"][order]
        moved[f"{layer}.bias"] = moved[f"{layer}.bias"][order]
        moved[f"{following}.weight"] = moved[f"{following}.weight"][:, order]
    return moved

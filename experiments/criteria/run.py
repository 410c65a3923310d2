"""All criteria at equal budgets: LeNet-300-100, pruned once after training, then fine-tuned.

    python experiments/criteria/run.py --data-dir data          # MNIST, three seeds
    python experiments/criteria/run.py --quick                  # digits, two seeds, fewer steps

Every result is kept in `runs`, so a run that was stopped goes on there. `--seed 1` computes that
seed alone and shows no table.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import contest
import torch
from pictures import draw
from running import kept, options, put
from tables import Results, findings, summary

FOLDER = Path(__file__).parent
WEIGHTS = (0.1, 0.05, 0.02)
UNITS = (0.5, 0.3, 0.15)
ALLOCATIONS = ("global", "uniform")
QUICK = {"task": "digits", "steps": 300, "tuning_steps": 60, "samples": 200, "few": 20}


def main() -> None:
    given = options(__doc__, seeds=3, seed=-1)
    # Where a unit is dead, Adam's moments fade to denormal numbers, which CPUs are slow with.
    torch.set_flush_denormal(True)
    count = min(given.seeds, 2) if given.quick else given.seeds
    seeds = [given.seed] if given.seed >= 0 else list(range(count))
    results: dict[str, Results] = {}
    for units in (False, True):
        setting = contest.Setting(units=units, **(QUICK if given.quick else {}))
        kind = "units" if units else "weights"
        results[kind] = compute(setting, seeds, given.data_dir)
    if given.seed >= 0:
        return
    texts = {}
    for kind, found in results.items():
        for allocation in ALLOCATIONS:
            for stage in ("plain", "tuned"):
                texts[f"{kind} {allocation} {stage}"] = summary(found, allocation, stage)
    texts["findings"] = "\n".join(findings(found, kind) for kind, found in results.items())
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")
    if given.write and not given.quick:
        for name, text in texts.items():
            put(FOLDER / "README.md", name, text)
        docs = FOLDER.parents[1] / "docs" / "images" / "criteria.png"
        draw(results["weights"], docs)


def compute(setting: contest.Setting, seeds: list[int], data_dir: str | None) -> Results:
    """Test errors by (name, allocation, density, stage), one for each seed."""
    names = contest.UNITS if setting.units else contest.WEIGHTS
    densities = UNITS if setting.units else WEIGHTS
    found: Results = {}
    for seed in seeds:
        base = {**dataclasses.asdict(setting), "seed": seed}
        dense = kept(
            FOLDER,
            {**base, "name": "dense"},
            lambda seed=seed: contest.train(setting, seed, data_dir).error,
        )
        found.setdefault(("dense", "", 1.0, "plain"), []).append(dense)
        for name in names:  # the scores of one serve both allocations
            for allocation in ALLOCATIONS:
                one = kept(
                    FOLDER,
                    {**base, "name": name, "allocation": allocation, "densities": densities},
                    lambda n=name, a=allocation, s=seed: contest.compare(
                        setting, n, a, densities, s, data_dir
                    ),
                )
                for density in densities:
                    for stage in ("plain", "tuned", "emptied"):
                        key = (name, allocation, density, stage)
                        found.setdefault(key, []).append(one[str(density)][stage])
    return found


if __name__ == "__main__":
    main()

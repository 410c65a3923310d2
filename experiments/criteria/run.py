"""All criteria at equal budgets: LeNet-300-100, pruned once after training, then fine-tuned.

    python experiments/criteria/run.py --data-dir data          # MNIST, three seeds
    python experiments/criteria/run.py --quick                  # digits, fewer steps

Every result is kept in `runs`, so a run that was stopped goes on there. `--part "weights global"`
is one of the four parts alone.
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
from tables import Results, described

FOLDER = Path(__file__).parent
WEIGHTS = (0.1, 0.05, 0.02)
UNITS = (0.5, 0.3, 0.15)
PARTS = ("weights global", "weights uniform", "units global", "units uniform")
QUICK = {"task": "digits", "steps": 300, "tuning_steps": 60, "samples": 200, "few": 20}


def main() -> None:
    given = options(__doc__, seeds=3, part="all")
    if given.part not in ("all", *PARTS):
        raise SystemExit(f"--part {given.part}: unknown; all, {', '.join(PARTS)}")
    # Where a unit is dead, Adam's moments fade to denormal numbers, which CPUs are slow with.
    torch.set_flush_denormal(True)
    seeds = list(range(given.seeds))
    for part in PARTS if given.part == "all" else [given.part]:
        kind, allocation = part.split()
        setting = contest.Setting(units=kind == "units", **(QUICK if given.quick else {}))
        found = compute(setting, allocation, seeds, given.data_dir)
        text = described(found)
        print(f"\n{part}\n\n{text}")
        if given.write:
            put(FOLDER / "README.md", f"digits {part}" if given.quick else part, text)
            if part == PARTS[0]:
                draw(found, FOLDER.parents[1] / "docs" / "images" / "criteria.png")


def compute(
    setting: contest.Setting, allocation: str, seeds: list[int], data_dir: str | None
) -> Results:
    """Test errors by (name, density, stage), one for each seed."""
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
        found.setdefault(("dense", 1.0, "plain"), []).append(dense)
        for name in names:
            one = kept(
                FOLDER,
                {**base, "name": name, "allocation": allocation, "densities": densities},
                lambda n=name, s=seed: contest.compare(
                    setting, n, allocation, densities, s, data_dir
                ),
            )
            for density in densities:
                for stage in ("plain", "tuned", "emptied"):
                    key = (name, density, stage)
                    found.setdefault(key, []).append(one[str(density)][stage])
    return found


if __name__ == "__main__":
    main()

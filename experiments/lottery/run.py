"""Lottery tickets: LeNet-300-100, the stability of training, dropout, Conv-2, rewinding.

    python experiments/lottery/run.py --data-dir data               # all of it
    python experiments/lottery/run.py --part lenet --quick          # one part, fewer steps

Every training that is finished is kept in `runs`, so a run that was stopped goes on there. Seeds
can be trained side by side: `--part lenet --seed 1` trains that one alone and shows no table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conv2
import dropout
import lenet
import rewinding
import stability
import torch
from running import options, put

FOLDER = Path(__file__).parent
PARTS: dict[str, Callable[..., str]] = {
    "lenet": lenet.main,
    "pixels": lenet.pixels,
    "stability": stability.main,
    "dropout": dropout.main,
    "conv2": conv2.main,
    "rewinding": rewinding.main,
}


def main() -> None:
    given = options(__doc__, part="all", seed=-1)
    if given.part != "all" and given.part not in PARTS:
        raise SystemExit(f"--part {given.part}: unknown; all, {', '.join(PARTS)}")
    # Where a unit is dead, Adam's moments fade to denormal numbers, which CPUs are slow with.
    torch.set_flush_denormal(True)
    count = 1 if given.quick else given.seeds
    seeds = range(count) if given.seed < 0 else [given.seed]
    for name, part in PARTS.items():
        if given.part in ("all", name):
            text = part(list(seeds), given.quick, given.data_dir)
            if given.seed >= 0:
                continue
            print(f"\n{name}\n\n{text}")
            if given.write and not given.quick:
                put(FOLDER / "README.md", name, text)


if __name__ == "__main__":
    main()

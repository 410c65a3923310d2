"""SNIP: the LeNet table, what its masks look like, random labels, larger networks, controls.

python experiments/snip/run.py --data-dir shared/data            # all of it
python experiments/snip/run.py --part lenet --quick              # one part, one seed, fewer steps
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import elsewhere
import labels
import larger
import lenet
import pictures
from running import options, put

FOLDER = Path(__file__).parent
PARTS: dict[str, Callable[..., str]] = {
    "lenet": lenet.main,
    "why": lenet.why,
    "pictures": pictures.main,
    "labels": labels.main,
    "cifar": larger.cifar,
    "recurrent": larger.recurrent,
    "transfer": elsewhere.transfer,
    "controls": elsewhere.controls,
    "sculpting": elsewhere.sculpting,
    "collapse": elsewhere.collapse,
}


def main() -> None:
    given = options(__doc__, part="all")
    if given.part != "all" and given.part not in PARTS:
        raise SystemExit(f"--part {given.part}: unknown; all, {', '.join(PARTS)}")
    seeds = 1 if given.quick else given.seeds
    for name, part in PARTS.items():
        if given.part in ("all", name):
            text = part(FOLDER, seeds, given.quick, given.data_dir)
            print(f"\n{name}\n\n{text}", flush=True)
            if given.write and not given.quick:
                put(FOLDER / "README.md", name, text)


if __name__ == "__main__":
    main()

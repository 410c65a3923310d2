"""Layerwise dynamical isometry: spectra against sparsity, and how sparse networks then train.

python experiments/isometry/run.py --data-dir shared/data
python experiments/isometry/run.py --part spectra --quick
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import spectra
import training
from running import options, put

FOLDER = Path(__file__).parent
PARTS: dict[str, Callable[..., str]] = {
    "spectra": spectra.main,
    "sparsities": training.sparsities,
    "schemes": training.schemes,
}


def main() -> None:
    given = options(__doc__, part="all")
    if given.part != "all" and given.part not in PARTS:
        raise SystemExit(f"--part {given.part}: unknown; all, {', '.join(PARTS)}")
    for name, part in PARTS.items():
        if given.part in ("all", name):
            text = part(FOLDER, given.seeds, given.quick, given.data_dir)
            print(f"\n{name}\n\n{text}", flush=True)
            if given.write and not given.quick:
                put(FOLDER / "README.md", name, text)


if __name__ == "__main__":
    main()

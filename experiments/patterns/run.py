"""Draw what each pattern keeps of one matrix of weights, at half its density.

python experiments/patterns/run.py --write
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from running import options
from torch import nn

from tersor.prune import prune_

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "patterns.png"
PATTERNS = ("element", "2:4", "2x2", "row", "channel", "head")


def masks(pattern: str) -> torch.Tensor:
    """What is kept of 24 x 8 weights: query, key and value of four heads of two rows each."""
    torch.manual_seed(3)
    model = nn.MultiheadAttention(8, 4)
    found, _ = prune_(model, 0.5, pattern=pattern, ignore="out_proj" if pattern != "head" else None)
    return found["in_proj_weight"]


def main() -> None:
    given = options(__doc__)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(PATTERNS), figsize=(8, 4))
    for place, pattern in zip(places, PATTERNS, strict=True):
        mask = masks(pattern)
        print(f"{pattern:8} {int(mask.sum())} of {mask.numel()}")
        place.imshow(mask, cmap="Blues", vmin=-0.3, vmax=1.2)
        place.set_title(pattern)
        place.set_xticks([])
        place.set_yticks([])
    figure.supxlabel("inputs", fontsize=9)
    places[0].set_ylabel("outputs", fontsize=9)
    figure.tight_layout()
    if given.write:
        figure.savefig(PICTURE, dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()

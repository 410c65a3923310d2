"""Deep Compression's headline on MNIST: bytes on disk, error before and after, layer by layer.

    python benchmarks/deep_compression.py --data-dir DIR [--write benchmarks/deep_compression.md]

Runs the recipes that come with tersor for LeNet-300-100 and LeNet-5, each with three seeds, and
prints the result beside Han, Mao and Dally 2016 (arXiv 1510.00149), tables 1 to 3.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from tersor import Result, compress, load_task
from tersor.compress import read_recipe
from tersor.core.seeding import seed_everything
from tersor.store import inspect
from tersor.tasks import build_model


@dataclass(frozen=True)
class Published:
    """What the paper has, and the bar of this project."""

    reference: float
    error: float
    kilobytes: int
    # layer: kept %, value bits and index bits before and after Huffman, rate % before and after
    layers: dict[str, tuple[float, float, float, float, float, float, float]]
    reference_bar: float
    bytes_bar: int


PUBLISHED = {
    "lenet-300-100": Published(
        1.64,
        1.58,
        27,
        {
            "fc1.weight": (8, 6, 4.4, 5, 3.7, 3.1, 2.32),
            "fc2.weight": (9, 6, 4.4, 5, 4.3, 3.8, 3.04),
            "fc3.weight": (26, 6, 4.3, 5, 3.2, 15.7, 12.70),
            "all weights": (8, 6, 5.1, 5, 3.7, 3.1, 2.49),
        },
        reference_bar=1.75,
        bytes_bar=26_600,
    ),
    "lenet-5": Published(
        0.80,
        0.74,
        44,
        {
            "conv1.weight": (66, 8, 7.2, 5, 1.5, 78.5, 67.45),
            "conv2.weight": (12, 8, 7.2, 5, 3.9, 6.0, 5.28),
            "fc1.weight": (8, 5, 4.5, 5, 4.5, 2.7, 2.45),
            "fc2.weight": (19, 5, 5.2, 5, 3.7, 6.9, 6.13),
            "all weights": (8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
        },
        reference_bar=0.90,
        bytes_bar=43_000,
    ),
}

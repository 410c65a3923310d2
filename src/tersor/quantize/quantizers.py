"""The quantizers by name."""

from __future__ import annotations

from tersor.quantize.affine import Affine
from tersor.quantize.centroids import KMeans
from tersor.quantize.quantizer import Quantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "kmeans": KMeans,
    "affine": Affine,
}
"""Name of a quantizer to its class, every setting of which has a default."""

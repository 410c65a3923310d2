"""The quantizers by name."""

from __future__ import annotations

from tersor.quantize.affine import Affine
from tersor.quantize.centroids import KMeans
from tersor.quantize.fixed_point import DynamicFixedPoint, FixedPoint
from tersor.quantize.formats import S2FP8, FloatFormat
from tersor.quantize.outlier import OutlierAware
from tersor.quantize.quantizer import Quantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "kmeans": KMeans,
    "affine": Affine,
    "float": FloatFormat,
    "s2fp8": S2FP8,
    "fixed_point": FixedPoint,
    "dynamic_fixed_point": DynamicFixedPoint,
    "outlier": OutlierAware,
}
"""Name of a quantizer to its class, every setting of which has a default."""

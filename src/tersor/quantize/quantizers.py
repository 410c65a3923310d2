"""The quantizers by name."""

from __future__ import annotations

from tersor.quantize.affine import Affine
from tersor.quantize.binary import Binary
from tersor.quantize.centroids import KMeans
from tersor.quantize.dorefa import DoReFa
from tersor.quantize.fixed_point import DynamicFixedPoint, FixedPoint
from tersor.quantize.formats import S2FP8, FloatFormat
from tersor.quantize.multi_binary import MultiBinary
from tersor.quantize.outlier import OutlierAware
from tersor.quantize.powers import PowerOfTwo
from tersor.quantize.product import Product
from tersor.quantize.quantizer import Quantizer
from tersor.quantize.residual import Residual
from tersor.quantize.ternary import Ternary

QUANTIZERS: dict[str, type[Quantizer]] = {
    "kmeans": KMeans,
    "affine": Affine,
    "binary": Binary,
    "ternary": Ternary,
    "power_of_two": PowerOfTwo,
    "dorefa": DoReFa,
    "multi_binary": MultiBinary,
    "float": FloatFormat,
    "s2fp8": S2FP8,
    "fixed_point": FixedPoint,
    "dynamic_fixed_point": DynamicFixedPoint,
    "outlier": OutlierAware,
    "product": Product,
    "residual": Residual,
}
"""Name of a quantizer to its class, every setting of which has a default."""

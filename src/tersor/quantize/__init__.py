"""Fewer bits: weights on the values of a grid, and training of shared values."""

from tersor.quantize.affine import Affine, AffineGrid
from tersor.quantize.centroids import MAX_BITS, CodebookGrid, KMeans
from tersor.quantize.codebook import Codebook, codebooks_of
from tersor.quantize.granularity import GRANULARITIES
from tersor.quantize.kmeans import INITS, Clusters, kmeans_1d
from tersor.quantize.quantizer import Grid, GridQuantizer, Quantizer
from tersor.quantize.quantizers import QUANTIZERS
from tersor.quantize.ranges import ACIQ, KL, MSE, RANGES, MinMax, Percentile
from tersor.quantize.rounding import ROUNDINGS
from tersor.quantize.straight_through import BACKWARDS, straight_through
from tersor.quantize.transform import quantize_
from tersor.quantize.tuning import CodebookTuner

__all__ = [
    "ACIQ",
    "BACKWARDS",
    "GRANULARITIES",
    "INITS",
    "KL",
    "MAX_BITS",
    "MSE",
    "QUANTIZERS",
    "RANGES",
    "ROUNDINGS",
    "Affine",
    "AffineGrid",
    "Clusters",
    "Codebook",
    "CodebookGrid",
    "CodebookTuner",
    "Grid",
    "GridQuantizer",
    "KMeans",
    "MinMax",
    "Percentile",
    "Quantizer",
    "codebooks_of",
    "kmeans_1d",
    "quantize_",
    "straight_through",
]

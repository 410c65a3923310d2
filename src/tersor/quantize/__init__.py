"""Fewer bits: weights on the values of a grid, and training of shared values."""

from tersor.quantize.centroids import MAX_BITS, CodebookGrid, KMeans
from tersor.quantize.codebook import Codebook, codebooks_of
from tersor.quantize.kmeans import INITS, Clusters, kmeans_1d
from tersor.quantize.quantizer import Grid, GridQuantizer, Quantizer
from tersor.quantize.quantizers import QUANTIZERS
from tersor.quantize.transform import quantize_
from tersor.quantize.tuning import CodebookTuner

__all__ = [
    "INITS",
    "MAX_BITS",
    "QUANTIZERS",
    "Clusters",
    "Codebook",
    "CodebookGrid",
    "CodebookTuner",
    "Grid",
    "GridQuantizer",
    "KMeans",
    "Quantizer",
    "codebooks_of",
    "kmeans_1d",
    "quantize_",
]

"""Few distinct values: k-means codebooks per tensor, and training of the shared values."""

from tersor.quantize.codebook import MAX_BITS, Codebook, quantize_
from tersor.quantize.kmeans import INITS, Clusters, kmeans_1d
from tersor.quantize.tuning import CodebookTuner

__all__ = ["INITS", "MAX_BITS", "Clusters", "Codebook", "CodebookTuner", "kmeans_1d", "quantize_"]

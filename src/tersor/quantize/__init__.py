"""Few distinct values: k-means codebooks per tensor, and training of the shared values."""

from tersor.quantize.codebook import Codebook, quantize_
from tersor.quantize.kmeans import Clusters, kmeans_1d
from tersor.quantize.tuning import CodebookTuner

__all__ = ["Clusters", "Codebook", "CodebookTuner", "kmeans_1d", "quantize_"]

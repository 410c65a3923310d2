"""The factorizers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tersor.factorize.block_term import BlockTerm
from tersor.factorize.cp import Cp
from tersor.factorize.embeddings import EmbeddingSvd
from tersor.factorize.factorizer import Factorizer
from tersor.factorize.low_rank import Svd
from tersor.factorize.low_rank_sparse import LowRankSparse
from tersor.factorize.spatial import SpatialSvd
from tersor.factorize.tensor_train import TensorTrain
from tersor.factorize.tucker import Tucker

FACTORIZERS: dict[str, Callable[..., Factorizer]] = {
    "svd": Svd,
    "randomized_svd": partial(Svd, solver="randomized"),
    "activation_svd": partial(Svd, solver="activations"),
    "embedding_svd": EmbeddingSvd,
    "spatial_svd": SpatialSvd,
    "tucker": Tucker,
    "cp": Cp,
    "tensor_train": TensorTrain,
    "block_term": BlockTerm,
    "low_rank_sparse": LowRankSparse,
}
"""Name of a method to what makes it, called with its settings; each has a default."""

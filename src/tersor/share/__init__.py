"""Weights that are shared: hashed buckets, tied tensors, templates, mixture priors."""

from tersor.share.hashed_layers import (
    HASHED,
    HashedConv1d,
    HashedConv2d,
    HashedEmbedding,
    HashedLinear,
)
from tersor.share.hashing import hash_
from tersor.share.materializing import materialize_

__all__ = [
    "HASHED",
    "HashedConv1d",
    "HashedConv2d",
    "HashedEmbedding",
    "HashedLinear",
    "hash_",
    "materialize_",
]

"""Weights that are shared: hashed buckets, tied tensors, templates, mixture priors."""

from tersor.share.attention_maps import attention_similarity, map_divergence, neighbour_groups
from tersor.share.attention_sharing import share_attention_
from tersor.share.augmented_loss import augmented_loss
from tersor.share.equilibrium import Equilibrium, anderson
from tersor.share.growl import GrOWL, growl_prox, owl_prox, owl_weights
from tersor.share.hashed_layers import (
    HASHED,
    HashedConv1d,
    HashedConv2d,
    HashedEmbedding,
    HashedLinear,
)
from tersor.share.hashing import hash_
from tersor.share.layer_sharing import ORDERS, share_layers_
from tersor.share.materializing import materialize_
from tersor.share.shared_attention import AttentionSource, SharedAttention
from tersor.share.shared_rows import SharedRows, share_rows_
from tersor.share.sharings import SHARINGS
from tersor.share.soft import MixturePrior, merge_
from tersor.share.soft_sharing import SoftSharing
from tersor.share.structure import rebuild_, structure
from tersor.share.templates import (
    TEMPLATED,
    TemplateConv1d,
    TemplateConv2d,
    TemplateLinear,
    parallel_layers,
    share_templates_,
)
from tersor.share.tying import tie_, ties_of, untie_
from tersor.share.universal import UniversalTransformer

__all__ = [
    "HASHED",
    "ORDERS",
    "SHARINGS",
    "TEMPLATED",
    "AttentionSource",
    "Equilibrium",
    "GrOWL",
    "HashedConv1d",
    "HashedConv2d",
    "HashedEmbedding",
    "HashedLinear",
    "MixturePrior",
    "SharedAttention",
    "SharedRows",
    "SoftSharing",
    "TemplateConv1d",
    "TemplateConv2d",
    "TemplateLinear",
    "UniversalTransformer",
    "anderson",
    "attention_similarity",
    "augmented_loss",
    "growl_prox",
    "hash_",
    "map_divergence",
    "materialize_",
    "merge_",
    "neighbour_groups",
    "owl_prox",
    "owl_weights",
    "parallel_layers",
    "rebuild_",
    "share_attention_",
    "share_layers_",
    "share_rows_",
    "share_templates_",
    "structure",
    "tie_",
    "ties_of",
    "untie_",
]

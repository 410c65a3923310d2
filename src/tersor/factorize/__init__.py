"""Layers as products of smaller ones: SVD, Tucker, CP, tensor trains, low rank plus sparse."""

from tersor.factorize.block_term import BlockTerm
from tersor.factorize.cp import Cp
from tersor.factorize.embeddings import EmbeddingSvd
from tersor.factorize.factorizer import Factorizer
from tersor.factorize.factorizers import FACTORIZERS
from tersor.factorize.factors import Factors
from tersor.factorize.low_rank import Svd
from tersor.factorize.low_rank_sparse import LowRankPlusSparse, LowRankSparse
from tersor.factorize.matrices import energy_rank, estimated_rank
from tersor.factorize.recurrent import FactoredGRU, FactoredLSTM, FactoredRNN, WeightFactors
from tersor.factorize.spatial import SpatialSvd
from tersor.factorize.structure import rebuild_, structure
from tersor.factorize.tensor_train import TensorTrain
from tersor.factorize.transform import factorize_, fold_
from tersor.factorize.tucker import Tucker

__all__ = [
    "FACTORIZERS",
    "BlockTerm",
    "Cp",
    "EmbeddingSvd",
    "FactoredGRU",
    "FactoredLSTM",
    "FactoredRNN",
    "Factorizer",
    "Factors",
    "LowRankPlusSparse",
    "LowRankSparse",
    "SpatialSvd",
    "Svd",
    "TensorTrain",
    "Tucker",
    "WeightFactors",
    "energy_rank",
    "estimated_rank",
    "factorize_",
    "fold_",
    "rebuild_",
    "structure",
]

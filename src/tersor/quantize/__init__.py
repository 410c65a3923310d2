"""Fewer bits: weights on the values of a grid, and training of shared values."""

from tersor.quantize.activation_ranges import ACTIVATION_RANGES, percentile_of
from tersor.quantize.activations import quantize_activations_, remove_activation_quantizers_
from tersor.quantize.affine import Affine, AffineGrid
from tersor.quantize.bias_correction import correct_biases_
from tersor.quantize.binary import Binary
from tersor.quantize.bit_allocation import allocate_bits, widths_of_equal_gain
from tersor.quantize.bit_costs import SENSITIVITIES
from tersor.quantize.bitwise import bit_plane_dot, xnor_dot
from tersor.quantize.centroids import MAX_BITS, CodebookGrid, KMeans, RowCodebooks
from tersor.quantize.clipping import Pact, clipping_penalty, fix_clipping_, unit_clipping
from tersor.quantize.codebook import Codebook, codebooks_of
from tersor.quantize.dorefa import DoReFa, QuantizedGradients, quantize_gradient
from tersor.quantize.equalization import equalize_
from tersor.quantize.fake_quantize import FakeQuantize
from tersor.quantize.fixed_point import DynamicFixedPoint, FixedPoint
from tersor.quantize.folding import FoldedNorm, fold_batch_norms_
from tersor.quantize.formats import FORMATS, S2FP8, FloatFormat
from tersor.quantize.gptq import gptq_
from tersor.quantize.granularity import GRANULARITIES
from tersor.quantize.incremental import Incremental
from tersor.quantize.integers import IntegerLayer, IntegerNetwork, to_integers
from tersor.quantize.kmeans import INITS, Clusters, kmeans_1d
from tersor.quantize.learned_levels import LearnedLevels
from tersor.quantize.learned_step import LearnedStep
from tersor.quantize.learners import Learner, Moment, StraightThrough, Training
from tersor.quantize.mixed_precision import mixed_precision
from tersor.quantize.multi_binary import MultiBinary
from tersor.quantize.noise import noisy_blocks
from tersor.quantize.observers import Observer
from tersor.quantize.outlier import OutlierAware
from tersor.quantize.powers import PowerOfTwo
from tersor.quantize.product import Product
from tersor.quantize.quantizer import Grid, GridQuantizer, Quantizer
from tersor.quantize.quantizers import QUANTIZERS
from tersor.quantize.ranges import ACIQ, KL, MSE, RANGES, MinMax, Percentile
from tersor.quantize.residual import Residual
from tersor.quantize.rounding import ROUNDINGS
from tersor.quantize.soft import SoftStair, soft_stair
from tersor.quantize.straight_through import BACKWARDS, straight_through
from tersor.quantize.structure import rebuild_, structure
from tersor.quantize.ternary import Ternary
from tersor.quantize.tolerance import fewest_bits
from tersor.quantize.trained_ternary import TrainedTernary
from tersor.quantize.training import QuantizedTraining
from tersor.quantize.trainings import TRAININGS
from tersor.quantize.transform import quantize_
from tersor.quantize.tuning import CodebookTuner
from tersor.quantize.vector_codebook import VectorCodebook
from tersor.quantize.vector_kmeans import Points, VectorClusters, kmeans_vectors
from tersor.quantize.vectors import quantize_vectors_

__all__ = [
    "ACIQ",
    "ACTIVATION_RANGES",
    "BACKWARDS",
    "FORMATS",
    "GRANULARITIES",
    "INITS",
    "KL",
    "MAX_BITS",
    "MSE",
    "QUANTIZERS",
    "RANGES",
    "ROUNDINGS",
    "S2FP8",
    "SENSITIVITIES",
    "TRAININGS",
    "Affine",
    "AffineGrid",
    "Binary",
    "Clusters",
    "Codebook",
    "CodebookGrid",
    "CodebookTuner",
    "DoReFa",
    "DynamicFixedPoint",
    "FakeQuantize",
    "FixedPoint",
    "FloatFormat",
    "FoldedNorm",
    "Grid",
    "GridQuantizer",
    "Incremental",
    "IntegerLayer",
    "IntegerNetwork",
    "KMeans",
    "LearnedLevels",
    "LearnedStep",
    "Learner",
    "MinMax",
    "Moment",
    "MultiBinary",
    "Observer",
    "OutlierAware",
    "Pact",
    "Percentile",
    "Points",
    "PowerOfTwo",
    "Product",
    "QuantizedGradients",
    "QuantizedTraining",
    "Quantizer",
    "Residual",
    "RowCodebooks",
    "SoftStair",
    "StraightThrough",
    "Ternary",
    "TrainedTernary",
    "Training",
    "VectorClusters",
    "VectorCodebook",
    "allocate_bits",
    "bit_plane_dot",
    "clipping_penalty",
    "codebooks_of",
    "correct_biases_",
    "equalize_",
    "fewest_bits",
    "fix_clipping_",
    "fold_batch_norms_",
    "gptq_",
    "kmeans_1d",
    "kmeans_vectors",
    "mixed_precision",
    "noisy_blocks",
    "percentile_of",
    "quantize_",
    "quantize_activations_",
    "quantize_gradient",
    "quantize_vectors_",
    "rebuild_",
    "remove_activation_quantizers_",
    "soft_stair",
    "straight_through",
    "structure",
    "to_integers",
    "unit_clipping",
    "widths_of_equal_gain",
    "xnor_dot",
]

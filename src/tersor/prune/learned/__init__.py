"""Sparsity that is learned while training: penalties, proximal maps, gates, Bayesian layers.

Penalties and maps stand beside any loop (`Penalized`, `Proximal`, `PruningAware`). Gates and
Bayesian layers are prepared (`hard_concrete_`, ...), trained, and turned into a plain model with
exact zeros by `finalize_`.
"""

from tersor.prune.learned.finalizing import LearnedLayer, LearnedMask, finalize_
from tersor.prune.learned.groups import group_norms, grouped, position
from tersor.prune.learned.hard_concrete import HardConcrete, expected_l0, hard_concrete_
from tersor.prune.learned.information_bottleneck import bottleneck, information_bottleneck_
from tersor.prune.learned.normal_jeffreys import normal_jeffreys_, normal_jeffreys_divergence
from tersor.prune.learned.penalized import Penalized
from tersor.prune.learned.penalties import (
    PENALTIES,
    Penalty,
    batch_norm_scales,
    elimination_and_decay,
    group_lasso,
    l1,
    structured_sparsity,
    weight_decay,
    weight_elimination,
)
from tersor.prune.learned.proximal import (
    PROX,
    Prox,
    Proximal,
    group_soft_threshold,
    hard_threshold,
    shrink,
    soft_threshold,
)
from tersor.prune.learned.pruning_aware import PruningAware
from tersor.prune.learned.variational_dropout import (
    divergence,
    log_uniform_divergence,
    variational_dropout_,
)

PREPARATIONS = {
    "hard_concrete": (hard_concrete_, expected_l0),
    "variational_dropout": (variational_dropout_, log_uniform_divergence),
    "normal_jeffreys": (normal_jeffreys_, normal_jeffreys_divergence),
    "information_bottleneck": (information_bottleneck_, bottleneck),
}
"""Name of a method to what prepares a model for it, and its penalty."""

__all__ = [
    "PENALTIES",
    "PREPARATIONS",
    "PROX",
    "HardConcrete",
    "LearnedLayer",
    "LearnedMask",
    "Penalized",
    "Penalty",
    "Prox",
    "Proximal",
    "PruningAware",
    "batch_norm_scales",
    "bottleneck",
    "divergence",
    "elimination_and_decay",
    "expected_l0",
    "finalize_",
    "group_lasso",
    "group_norms",
    "group_soft_threshold",
    "grouped",
    "hard_concrete_",
    "hard_threshold",
    "information_bottleneck_",
    "l1",
    "log_uniform_divergence",
    "normal_jeffreys_",
    "normal_jeffreys_divergence",
    "position",
    "shrink",
    "soft_threshold",
    "structured_sparsity",
    "variational_dropout_",
    "weight_decay",
    "weight_elimination",
]

"""Pruning before training: what is scored without labels, what is checked, and what comes next."""

from tersor.prune.initial.balance import collapsed, critical_density, layer_balance
from tersor.prune.initial.controls import inverted, redraw_, shuffled
from tersor.prune.initial.initialisers import delta_orthogonal_, initialise_, variance_scaling_
from tersor.prune.initial.isometry import approximate_isometry_, distance_to_isometry
from tersor.prune.initial.losses import predicted_label, soft_prediction, uniform_target
from tersor.prune.initial.sculpting import sculpt_
from tersor.prune.initial.transfer import transfer_

__all__ = [
    "approximate_isometry_",
    "collapsed",
    "critical_density",
    "delta_orthogonal_",
    "distance_to_isometry",
    "initialise_",
    "inverted",
    "layer_balance",
    "predicted_label",
    "redraw_",
    "sculpt_",
    "shuffled",
    "soft_prediction",
    "transfer_",
    "uniform_target",
    "variance_scaling_",
]

"""How much each weight matters: a criterion gives scores, higher = keep."""

from tersor.prune.criteria.batch_norm import batch_norm_scale
from tersor.prune.criteria.curvature import fisher, obd
from tersor.prune.criteria.filters import filter_l1, filter_l2, geometric_median
from tersor.prune.criteria.flow import lookahead, nisp
from tersor.prune.criteria.gates import fisher_gate, skeletonization, taylor_gate
from tersor.prune.criteria.gradients import gradient_magnitude, snip, taylor
from tersor.prune.criteria.grasp import grasp
from tersor.prune.criteria.karnin import Karnin
from tersor.prune.criteria.layerwise_obs import layerwise_obs
from tersor.prune.criteria.movement import Movement, movement
from tersor.prune.criteria.obs import obs
from tersor.prune.criteria.synflow import synflow
from tersor.prune.criteria.trajectory import since
from tersor.prune.criteria.wanda import wanda
from tersor.prune.criteria.weights import (
    magnitude,
    magnitude_over_deviation,
    magnitude_over_norm,
    magnitude_share,
    random,
)
from tersor.prune.scoring import Criterion

CRITERIA: dict[str, Criterion] = {
    f.__name__: f
    for f in (
        random,
        magnitude,
        magnitude_over_norm,
        magnitude_over_deviation,
        magnitude_share,
        gradient_magnitude,
        taylor,
        snip,
        grasp,
        synflow,
        movement,
        fisher,
        obd,
        obs,
        layerwise_obs,
        wanda,
        lookahead,
        nisp,
        filter_l1,
        filter_l2,
        geometric_median,
        batch_norm_scale,
        taylor_gate,
        fisher_gate,
        skeletonization,
    )
}

__all__ = [
    "CRITERIA",
    "Karnin",
    "Movement",
    "batch_norm_scale",
    "filter_l1",
    "filter_l2",
    "fisher",
    "fisher_gate",
    "geometric_median",
    "gradient_magnitude",
    "grasp",
    "layerwise_obs",
    "lookahead",
    "magnitude",
    "magnitude_over_deviation",
    "magnitude_over_norm",
    "magnitude_share",
    "movement",
    "nisp",
    "obd",
    "obs",
    "random",
    "since",
    "skeletonization",
    "snip",
    "synflow",
    "taylor",
    "taylor_gate",
    "wanda",
]

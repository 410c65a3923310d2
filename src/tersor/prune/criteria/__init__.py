"""How much each weight matters: a criterion gives scores, higher = keep."""

from tersor.prune.criteria.gradients import gradient_magnitude, snip, taylor
from tersor.prune.criteria.grasp import grasp
from tersor.prune.criteria.synflow import synflow
from tersor.prune.criteria.weights import magnitude, random
from tersor.prune.scoring import Criterion

CRITERIA: dict[str, Criterion] = {
    f.__name__: f
    for f in (
        random,
        magnitude,
        gradient_magnitude,
        taylor,
        snip,
        grasp,
        synflow,
    )
}

__all__ = [
    "CRITERIA",
    "gradient_magnitude",
    "grasp",
    "magnitude",
    "random",
    "snip",
    "synflow",
    "taylor",
]

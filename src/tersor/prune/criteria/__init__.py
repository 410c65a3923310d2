"""How much each weight matters: a criterion gives scores, higher = keep."""

from tersor.prune.criteria.weights import magnitude
from tersor.prune.scoring import Criterion

CRITERIA: dict[str, Criterion] = {f.__name__: f for f in (magnitude,)}

__all__ = ["CRITERIA", "magnitude"]

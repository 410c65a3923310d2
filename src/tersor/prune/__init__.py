"""Which weights go: criterion, pattern, allocation and schedule, each for itself."""

from tersor.prune.allocation import ALLOCATIONS
from tersor.prune.criteria import CRITERIA, magnitude
from tersor.prune.gradual import GradualPruner
from tersor.prune.patterns import PATTERNS
from tersor.prune.repair import REPAIRS
from tersor.prune.schedules import SCHEDULES, cubic, geometric, linear, one_shot
from tersor.prune.scoring import ScoringData
from tersor.prune.transform import prune_

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PATTERNS",
    "REPAIRS",
    "SCHEDULES",
    "GradualPruner",
    "ScoringData",
    "cubic",
    "geometric",
    "linear",
    "magnitude",
    "one_shot",
    "prune_",
]

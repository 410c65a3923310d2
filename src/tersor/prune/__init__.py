"""Which weights go: criterion, pattern, allocation and schedule, each for itself."""

from tersor.prune.allocation import ALLOCATIONS
from tersor.prune.criteria import CRITERIA, Karnin, Movement, magnitude, since
from tersor.prune.gradual import GradualPruner
from tersor.prune.patterns import PATTERNS, pattern_of
from tersor.prune.repair import REPAIRS
from tersor.prune.schedules import SCHEDULES, cubic, geometric, linear, one_shot
from tersor.prune.scoring import FirstBatches, ScoringData
from tersor.prune.transform import prune_

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PATTERNS",
    "REPAIRS",
    "SCHEDULES",
    "FirstBatches",
    "GradualPruner",
    "Karnin",
    "Movement",
    "ScoringData",
    "cubic",
    "geometric",
    "linear",
    "magnitude",
    "one_shot",
    "pattern_of",
    "prune_",
    "since",
]

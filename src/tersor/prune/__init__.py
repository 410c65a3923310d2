"""Which weights go (criterion), from where (allocation) and when (schedule)."""

from tersor.prune.allocation import ALLOCATIONS
from tersor.prune.criteria import CRITERIA, magnitude
from tersor.prune.gradual import GradualPruner
from tersor.prune.schedules import SCHEDULES, cubic, geometric, linear, one_shot
from tersor.prune.transform import prune_

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "SCHEDULES",
    "GradualPruner",
    "cubic",
    "geometric",
    "linear",
    "magnitude",
    "one_shot",
    "prune_",
]

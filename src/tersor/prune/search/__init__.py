"""Search for what to prune: one loop, strategies for it, and networks as its environments."""

from tersor.prune.search.bits import MaskEnvironment
from tersor.prune.search.densities import DensityEnvironment
from tersor.prune.search.fixed import fixed
from tersor.prune.search.genetic import SELECTIONS, Bits, Densities, Genetic, roulette, tournament
from tersor.prune.search.greedy import greedy
from tersor.prune.search.loop import Search, Strategy
from tersor.prune.search.pbil import Pbil

__all__ = [
    "SELECTIONS",
    "Bits",
    "Densities",
    "DensityEnvironment",
    "Genetic",
    "MaskEnvironment",
    "Pbil",
    "Search",
    "Strategy",
    "fixed",
    "greedy",
    "roulette",
    "tournament",
]

"""An allocation that was found once: counts by name, as they are."""

from __future__ import annotations

from collections.abc import Mapping

from tersor.core.errors import ConfigError
from tersor.prune.allocation import Allocation, Counts, Groups, kept_count


def fixed(counts: Counts) -> Allocation:
    """The allocation that keeps these numbers of groups, at the one density that they make.

    Raises:
        ConfigError: (the allocation) the density is another one, or a layer has no count.

    >>> import torch
    >>> fixed({"a": 3, "b": 1})({n: Groups.of(torch.ones(4)) for n in "ab"}, 0.5)
    {'a': 3, 'b': 1}
    """

    def allocation(groups: Mapping[str, Groups], density: float) -> Counts:
        there = [name for name, group in groups.items() if group.count]
        if there != list(counts):
            raise ConfigError(
                f"fixed: counts for {', '.join(counts)}, but there are {', '.join(there)}"
            )
        kept = sum(counts[name] * groups[name].size for name in there)
        budget = kept_count(sum(group.weights for group in groups.values()), density)
        if not 0 <= budget - kept < max(group.size for group in groups.values()):
            raise ConfigError(
                f"fixed: the counts keep {kept:,} weights, but density {density:g} is {budget:,}"
            )
        return {name: counts.get(name, 0) for name in groups}

    return allocation

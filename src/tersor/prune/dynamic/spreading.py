"""Whole numbers in proportion to shares, with an exact sum and no more than there is room for."""

from __future__ import annotations

from collections.abc import Mapping

from tersor.core.errors import ConfigError


def spread(total: int, shares: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """`total` things over some places, in proportion to the shares, at most `room` in each.

    A place whose part is more than its room is filled, and what is left is spread over the others
    in proportion to their shares, again and again; rounding is by largest remainders.

    Args:
        total: from 0 to all the room there is.
        shares: of any sum, 0 or more; where all that have room have share 0, their room counts.
        room: whole numbers, 0 or more.

    Raises:
        ConfigError: there is not enough room.

    >>> spread(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 4, "b": 100, "c": 100})
    {'a': 4, 'b': 3, 'c': 3}
    """
    if not 0 <= total <= sum(room.values()):
        raise ConfigError(f"spread: {total:,} on {sum(room.values()):,} places; expected no more")
    counts = dict.fromkeys(shares, 0)
    left = total
    unfilled = [name for name in shares if room[name] > 0]
    while left:
        weights = {name: shares[name] for name in unfilled}
        if sum(weights.values()) == 0:
            weights = {name: room[name] for name in unfilled}
        whole = sum(weights.values())
        exact = {name: left * weight / whole for name, weight in weights.items()}
        full = [name for name in unfilled if exact[name] >= room[name]]
        if not full:
            for name in unfilled:
                counts[name] = int(exact[name])
            missing = left - sum(counts[name] for name in unfilled)
            for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:missing]:
                counts[name] += 1
            return counts
        for name in full:
            counts[name] = room[name]
            left -= room[name]
        unfilled = [name for name in unfilled if name not in full]
    return counts

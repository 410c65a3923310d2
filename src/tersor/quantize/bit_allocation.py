"""How many bits each weight gets when all of them together may have so many: the exact optimum.

min sum_l cost_l(b_l)   so that   sum_l n_l b_l <= budget,   one width b_l of its choices for each l

The states of the dynamic program are sums of bits and of costs over the first layers. Of two states
the one with more bits and no less cost goes; so does one that, with the best that the convex hulls
of the other layers could give, is no better than a solution that is known.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.hulls import lower_hull

Costs = Mapping[str, Mapping[float, float]]
"""Name of a weight to what each of its widths costs, in bits of a code: lower = better."""

_SLACK = 1e-9  # of sums of floats, relative


def allocate_bits(
    costs: Costs,
    sizes: Mapping[str, int],
    *,
    budget: float | None = None,
    size_bytes: float | None = None,
) -> dict[str, float]:
    """The width of each weight with which the sum of the costs is least within a budget.

    Args:
        costs: of each width that a weight may have; any finite numbers. What a cost is, and that
            costs of several weights add up, is the caller's claim.
        sizes: entries of each weight.
        budget: bits of a code on average over all entries.
        size_bytes: or all codes together, in bytes. Tables, scales and a header are not counted.

    Returns:
        Name to width. Of solutions that cost the same it is one with the fewest bits.

    Raises:
        ConfigError: both or none of `budget` and `size_bytes`, below what the smallest widths take,
            or costs and sizes do not fit together.

    Source: Shoham and Gersho 1988, Efficient bit allocation for an arbitrary set of quantizers,
    for the hulls; the optimum beyond them as in Kellerer, Pferschy and Pisinger 2004, Knapsack
    Problems, section 11.5.

    >>> costs = {"small": {2: 9.0, 4: 1.0, 8: 0.1}, "large": {2: 3.0, 4: 1.0, 8: 0.9}}
    >>> allocate_bits(costs, {"small": 10, "large": 100}, budget=4)
    {'small': 4, 'large': 4}
    >>> allocate_bits(costs, {"small": 10, "large": 100}, budget=2.5)
    {'small': 4, 'large': 2}
    """
    _check(costs, sizes, budget, size_bytes)
    total = sum(sizes[name] for name in costs)
    limit = budget * total if budget is not None else 8 * float(size_bytes or 0)
    layers = [_options(costs[name], sizes[name]) for name in costs]
    least = sum(options[0][0] for options in layers)
    if least > limit + _SLACK * max(limit, 1):
        given = f"budget {budget:g} bits" if budget is not None else f"size_bytes {size_bytes:g}"
        raise ConfigError(
            f"{given}: the smallest widths take {least / max(total, 1):.4g} bits on average, "
            f"{math.ceil(least / 8):,} bytes; expected as much or more"
        )
    chosen = _solve(layers, limit + _SLACK * max(limit, 1))
    return {
        name: _width(costs[name], sizes[name], option)
        for name, option in zip(costs, chosen, strict=True)
    }


def widths_of_equal_gain(
    sizes: Mapping[str, int], budget: float, *, decibels_a_bit: float = 20 * math.log10(2)
) -> dict[str, float]:
    """The real-valued widths of the rule of signal to noise, which knows only the sizes.

    b_i - b_j = 10 / kappa log10(n_j / n_i): where each bit gains kappa decibels in a layer and
    the ratios of noise to signal of all layers add up, a layer has the fewer bits the larger it is.

    Args:
        sizes: entries of each layer, above 0.
        budget: bits on average over all entries; widths may be negative for a small one.
        decibels_a_bit: kappa; 6.02 for even grids.

    Source: Lin, Talathi and Annapureddy 2016, arXiv 1511.06393, eq. 10.

    >>> found = widths_of_equal_gain({"conv": 100, "fc": 400}, 4)
    >>> {name: round(bits, 4) for name, bits in found.items()}
    {'conv': 4.8, 'fc': 3.8}
    """
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"sizes: {name!r} has {size} entries; expected 1 or more")
    bits = {name: -10 / decibels_a_bit * math.log10(size) for name, size in sizes.items()}
    mean = sum(sizes[n] * b for n, b in bits.items()) / max(sum(sizes.values()), 1)
    return {name: b - mean + budget for name, b in bits.items()}


Option = tuple[float, float]
"""Bits of a whole weight, and what they cost."""


def _options(costs: Mapping[float, float], size: int) -> list[Option]:
    """Those that no other beats, from the fewest bits up, each cheaper than the one before."""
    found: list[Option] = []
    for bits, cost in sorted((bits * size, cost) for bits, cost in costs.items()):
        if not found or cost < found[-1][1]:
            found.append((bits, cost))
    return found


def _width(costs: Mapping[float, float], size: int, option: Option) -> float:
    return next(b for b in sorted(costs) if (b * size, costs[b]) == option)


def _solve(layers: list[list[Option]], limit: float) -> list[Option]:
    """The best option of each layer; the smallest of all of them fit."""
    slack = _SLACK * sum(max(abs(cost) for _, cost in options) for options in layers)
    order = sorted(range(len(layers)), key=lambda i: layers[i][0][1] - layers[i][-1][1])[::-1]
    rests = [_Hulls([layers[i] for i in order[k:]]) for k in range(len(layers) + 1)]
    known = rests[0].rounded(limit)
    # (bits, cost, the state before, the option that led here), from the fewest bits up
    states: list[tuple[float, float, int, Option]] = [(0.0, 0.0, -1, (0.0, 0.0))]
    trail = []
    for place, index in enumerate(order):
        rest, grown = rests[place + 1], []
        for at, (bits, cost, _, _) in enumerate(states):
            for option in layers[index]:
                left = limit - bits - option[0]
                if left < rest.least:
                    break
                sum_ = cost + option[1]
                known = min(known, sum_ + rest.rounded(left))
                if sum_ + rest.bound(left) <= known + slack:
                    grown.append((bits + option[0], sum_, at, option))
        grown.sort(key=lambda state: state[:2])
        states = []
        for state in grown:
            if not states or state[1] < states[-1][1]:
                states.append(state)
        trail.append(states)
    at = len(states) - 1  # the last one is the cheapest
    chosen: dict[int, Option] = {}
    for index, found in zip(order[::-1], trail[::-1], strict=True):
        chosen[index] = found[at][3]
        at = found[at][2]
    return [chosen[i] for i in range(len(layers))]


class _Hulls:
    """Some layers, solved on the lower convex hulls of their options: steepest pieces first."""

    def __init__(self, layers: list[list[Option]]) -> None:
        self.least = sum(options[0][0] for options in layers)
        cost = sum(options[0][1] for options in layers)
        pieces = []
        for options in layers:
            for (few, high), (many, low) in itertools.pairwise(lower_hull(options)):
                pieces.append(((low - high) / (many - few), many - few, low - high))
        pieces.sort()
        self._slopes = [slope for slope, _, _ in pieces]
        self._ends = list(itertools.accumulate((p[1] for p in pieces), initial=self.least))
        self._costs = list(itertools.accumulate((p[2] for p in pieces), initial=cost))

    def rounded(self, limit: float) -> float:
        """What whole pieces reach within this many bits: a solution that there is."""
        return self._costs[self._place(limit)]

    def bound(self, limit: float) -> float:
        """What no solution within this many bits is below: a part of the next piece, too."""
        place = self._place(limit)
        if place == len(self._slopes):
            return self._costs[place]
        return self._costs[place] + self._slopes[place] * (limit - self._ends[place])

    def _place(self, limit: float) -> int:
        return max(0, bisect_right(self._ends, limit) - 1)


def _check(
    costs: Costs, sizes: Mapping[str, int], budget: float | None, size_bytes: float | None
) -> None:
    if (budget is None) == (size_bytes is None):
        both = "neither" if budget is None else "both"
        raise ConfigError(f"budget and size_bytes: {both} given; expected one of them")
    what, value = ("budget", budget) if budget is not None else ("size_bytes", size_bytes)
    if value is None or not 0 < value < math.inf:
        raise ConfigError(f"{what}: {value}; expected a number above 0")
    if not costs:
        raise ConfigError("costs: there are none; expected a cost for each width of each weight")
    for name, of_widths in costs.items():
        if name not in sizes:
            raise ConfigError(
                f"sizes: {name!r} has costs, but no size; {did_you_mean(name, sizes)}"
            )
        if not of_widths:
            raise ConfigError(f"costs: {name!r} has no widths to choose from")
        for bits, cost in of_widths.items():
            if not math.isfinite(cost) or not 0 < bits < math.inf:
                raise ConfigError(
                    f"costs: {name!r} costs {cost} with {bits} bits; "
                    "expected finite numbers, and bits above 0"
                )

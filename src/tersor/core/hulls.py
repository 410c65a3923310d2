"""The lower convex hull of a curve: what a sum of curves is least on, slope by slope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

X = TypeVar("X", int, float)


def lower_hull(points: Iterable[tuple[X, float]]) -> list[tuple[X, float]]:
    """The corners of the lower convex hull of some points, from left to right.

    Source: Andrew 1979, Another efficient algorithm for convex hulls in two dimensions.

    >>> lower_hull([(8, 0.0), (6, 0.9), (4, 1.0), (2, 3.0)])
    [(2, 3.0), (4, 1.0), (8, 0.0)]
    """
    corners: list[tuple[X, float]] = []
    for x, y in sorted(points):
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            corners.pop()  # it is on the line between its neighbours, or above it
        corners.append((x, y))
    return corners

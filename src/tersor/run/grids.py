"""Integers with scales, or codebooks of rows, that a weight matrix is made of, bit for bit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 255  # of an integer: 8 bits and a zero point at an end
_GROUPS = (256, 128, 64, 32, 16)  # columns with a scale of their own, where a row has not one
_FIRST = 64  # groups that are looked at before the others
_NORMAL = np.finfo(np.float32).tiny
_BOOK = 16  # values of a row's codebook


@dataclass(frozen=True, eq=False)
class Grid:
    """A matrix as scale * integer.

    Args:
        group: columns that share a scale; the last group of a row may have fewer.
        bits: of a code, 2, 4 or 8: enough for the range of integers of each group.
        scales: (rows, groups).
        integers: (rows, columns), -255 to 255.
    """

    group: int
    bits: int
    scales: NDArray[np.float32]
    integers: NDArray[np.int16]

    @property
    def name(self) -> str:
        """What a plan calls it."""
        whole = self.group == self.integers.shape[1]
        return f"int{self.bits}" if whole else f"int{self.bits} group {self.group}"


def grid_of(matrix: NDArray[np.float32], groups: tuple[int, ...] | None = None) -> Grid | None:
    """The grid with the widest groups that gives the matrix (rows, columns), or None.

    Every value is then float32(integer) * scale to the bit, and in a group the integers span at
    most 8 bits. Zeros lose their sign.

    Args:
        groups: columns of a group to try; None = a whole row, then 256 to 16.

    >>> matrix = np.float32([[0.1, -0.3, 0.7, 0.0], [2.0, 0.5, -1.0, 1.5]])
    >>> grid_of(matrix).name, grid_of(matrix).integers.tolist()
    ('int4', [[1, -3, 7, 0], [4, 1, -2, 3]])
    """
    rows, columns = matrix.shape
    if groups is None:
        groups = (columns, *(g for g in _GROUPS if g < columns))
    for group in groups:
        padding = -columns % group
        padded = np.pad(matrix, ((0, 0), (0, padding))) if padding else matrix
        found = _scaled(np.ascontiguousarray(padded).reshape(-1, group))
        if found is None:
            continue
        scales, integers = found
        bits = _bits(integers.reshape(rows, -1, group), columns)
        if bits is not None:
            whole = np.ascontiguousarray(integers.reshape(rows, -1)[:, :columns])
            return Grid(group, bits, scales.reshape(rows, -1), whole)
    return None


def row_books(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.uint16]] | None:
    """Codebooks of the rows, (rows, 16), and codes, or None: a row has more than 16 values.

    >>> books, codes = row_books(np.float32([[3, 1, 3], [0, 5, -5]]))
    >>> books[:, :3].tolist(), codes.tolist()
    ([[1.0, 3.0, 3.0], [-5.0, 0.0, 5.0]], [[1, 0, 1], [1, 2, 0]])
    """
    first = matrix[:4]
    if len(first) < len(matrix) and row_books(first) is None:
        return None
    if np.isnan(matrix).any():
        return None
    ordered = np.sort(matrix, axis=1)
    place = np.zeros(matrix.shape, np.int64)  # of each value among its row's
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=place[:, 1:])
    if place.max() >= _BOOK:
        return None
    books = np.repeat(ordered[:, -1:], _BOOK, axis=1)
    np.put_along_axis(books, place, ordered, axis=1)
    codes = np.zeros(matrix.shape, np.uint16)
    for k in range(1, int(place.max()) + 1):
        codes += (matrix >= books[:, k : k + 1]) & (books[:, k : k + 1] > books[:, k - 1 : k])
    return books, codes


def _bits(integers: NDArray[np.int16], columns: int) -> int | None:
    """Bits for the range of each group's integers; zeros behind the last column do not count."""
    last = columns - (integers.shape[1] - 1) * integers.shape[2]
    parts = [integers[:, -1, :last]]
    if integers.shape[1] > 1:
        parts.append(integers[:, :-1])
    span = max(int((p.max(axis=-1).astype(np.int32) - p.min(axis=-1)).max()) for p in parts)
    return next((bits for bits in (2, 4, 8) if span < 1 << bits), None)


def _scaled(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int16]] | None:
    """Scale and integers of each group, (groups, n); None if one has none."""
    if len(values) > _FIRST and _scaled(values[:_FIRST]) is None:
        return None
    sides = np.abs(values)
    largest = sides.max(axis=1)
    if not np.isfinite(largest).all():
        return None
    least = np.where(sides > 0, sides, np.float32(np.inf)).min(axis=1)
    scales = np.ones(len(values), np.float32)
    integers = np.zeros(values.shape, np.int16)
    left = np.flatnonzero(largest > 0)
    # The step is the least value divided by an integer, and the largest one tells it best.
    for divisor, ulps in itertools.product(range(1, _MOST + 1), (0, -1, 1)):
        if len(left) == 0:
            break
        steps = np.rint(largest[left].astype(np.float64) * divisor / least[left])
        if steps.max() > _MOST:
            return None
        scale = (largest[left] / steps).astype(np.float32)
        if ulps:
            scale = np.nextafter(scale, np.float32(np.inf if ulps > 0 else 0))
        scale = np.maximum(scale, _NORMAL)
        of_left = np.rint(values[left] / scale[:, None])
        fits = (of_left * scale[:, None] == values[left]).all(axis=1)
        fits &= np.abs(of_left).max(axis=1) <= _MOST
        scales[left[fits]] = scale[fits]
        integers[left[fits]] = of_left[fits].astype(np.int16)
        left = left[~fits]
    return (scales, integers) if len(left) == 0 else None

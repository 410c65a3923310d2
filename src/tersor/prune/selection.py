"""The k highest of many numbers, exactly, without sorting, joining or copying them.

Floats are read as integers of the same order, sixteen bits at a time from the top: a histogram
says in which of 65,536 ranges the k-th highest lies, and only that range is looked at again.
Two passes for float32, in blocks, so almost no memory is needed. The counting is native code;
what lies on another device comes to the CPU block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersor import _native

_DIGIT = 16
_BLOCK = 1 << 20  # numbers that are copied together where they must be
_BITS = {torch.float32: 32, torch.float64: 64}


@dataclass(frozen=True)
class _Cut:
    """Where the highest numbers end: all above `key` are among them, and of those at it the first.

    Args:
        key: an integer of the same order as the numbers (see native/selection.hpp); None: all are
            among them.
        left: what is left for those at `key`.
        dtype: the float type that the numbers are compared in.
    """

    key: int | None
    left: int
    dtype: torch.dtype


def highest_of_all(
    numbers: Mapping[str, Tensor], budget: int, costs: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many of each tensor's numbers are among the highest of all that the budget can pay.

    They are taken from the highest down, equal ones in the order of the tensors and within each by
    flat index, until the next one is too dear. So the choices for growing budgets are nested.

    Args:
        numbers: by name; looked at several times, and no two are held at once.
        budget: what all that are taken may cost together.
        costs: of one number of each tensor; 1 without it, and then exactly `budget` are taken.

    >>> highest_of_all({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 9.0])}, 3)
    {'a': 1, 'b': 2}
    """
    costs = costs or dict.fromkeys(numbers, 1)
    cut = _cut(numbers, budget, costs)
    if cut.key is None:
        return {name: numbers[name].numel() for name in numbers}
    counts, left = {}, cut.left
    for name in numbers:
        above, ties = _count_above(numbers[name], cut.key, cut.dtype)
        taken = min(ties, left // costs[name])
        counts[name] = above + taken
        # What follows a tie that is too dear is not taken either.
        left = left - taken * costs[name] if taken == ties else 0
    return counts


def highest(numbers: Tensor, count: int) -> Tensor:
    """True at the `count` highest numbers of one tensor, ties by flat index.

    >>> highest(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2)
    tensor([False,  True,  True, False])
    """
    if count >= numbers.numel():
        return torch.ones_like(numbers, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(numbers, dtype=torch.bool)
    cut = _cut({"": numbers}, count, {"": 1})
    assert cut.key is not None  # some are not among them
    kept = torch.empty(numbers.numel(), dtype=torch.bool)
    left, begin = cut.left, 0
    for block in _blocks(numbers, cut.dtype):
        left = _native.mark_above(block, cut.key, left, kept[begin : begin + len(block)].numpy())
        begin += len(block)
    return kept.view(numbers.shape).to(numbers.device)


def live(numbers: Tensor) -> int:
    """How many numbers are not -inf.

    >>> live(torch.tensor([1.0, -torch.inf, 3.0]))
    2
    """
    blocks = _blocks(numbers, _common({"": numbers}))
    return sum(int(np.count_nonzero(block != -np.inf)) for block in blocks)


def _cut(numbers: Mapping[str, Tensor], budget: int, costs: Mapping[str, int]) -> _Cut:
    dtype = _common(numbers)
    bits = _BITS[dtype]
    prefix, left = 0, budget  # the leading digits of the cut, and what those above them leave
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        cost = np.zeros(1 << _DIGIT, np.int64)
        for name in numbers:
            _add_digits(numbers[name], dtype, shift, prefix, costs[name], cost)
        paid, left = _native.pay(cost, left)
        if paid == 1 << _DIGIT:
            return _Cut(None, 0, dtype)
        prefix = (prefix << _DIGIT) | ((1 << _DIGIT) - 1 - paid)
    return _Cut(prefix - (1 << (bits - 1)), left, dtype)


# One tensor a call: a loop over `numbers` would hold each while the next is made.


def _add_digits(
    numbers: Tensor,
    dtype: torch.dtype,
    shift: int,
    prefix: int,
    cost: int,
    counts: NDArray[np.int64],
) -> None:
    for block in _blocks(numbers, dtype):
        _native.add_digits(block, shift, prefix, cost, counts)


def _count_above(numbers: Tensor, key: int, dtype: torch.dtype) -> tuple[int, int]:
    found = [_native.count_above(block, key) for block in _blocks(numbers, dtype)]
    return sum(above for above, _ in found), sum(ties for _, ties in found)


def _blocks(
    numbers: Tensor, dtype: torch.dtype
) -> Iterator[NDArray[np.float32] | NDArray[np.float64]]:
    """The numbers in row-major order, on the CPU and of one dtype; copied only where they must."""
    for block in numbers.detach().reshape(-1).split(_BLOCK):
        yield block.to("cpu", dtype).contiguous().numpy()


def _common(numbers: Mapping[str, Tensor]) -> torch.dtype:
    """float32 where it holds all numbers exactly, else float64."""
    exact = (torch.float32, torch.float16, torch.bfloat16, torch.bool)
    return torch.float32 if all(numbers[n].dtype in exact for n in numbers) else torch.float64

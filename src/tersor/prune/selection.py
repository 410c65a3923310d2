"""The k highest of many numbers, exactly, without sorting, joining or copying them.

Floats are read as integers of the same order, sixteen bits at a time from the top: a histogram
says in which of 65,536 ranges the k-th highest lies, and only that range is looked at again.
Two passes for float32, in blocks, so almost no memory is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_DIGIT = 16
_BLOCK = 1 << 18  # numbers looked at together; their integers stay in the cache
_KEYS = {torch.float32: (torch.int32, 32), torch.float64: (torch.int64, 64)}


@dataclass(frozen=True)
class _Cut:
    """Where the highest numbers end: all above `key` are among them, and of those at it the first.

    Args:
        key: an integer of the same order as the numbers (see `_keys`); None: all are among them.
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
        numbers: by name; looked at several times, one tensor after the other.
        budget: what all that are taken may cost together.
        costs: of one number of each tensor; 1 without it, and then exactly `budget` are taken.

    >>> highest_of_all({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 9.0])}, 3)
    {'a': 1, 'b': 2}
    """
    costs = costs or dict.fromkeys(numbers, 1)
    cut = _cut(numbers, budget, costs)
    if cut.key is None:
        return {name: tensor.numel() for name, tensor in numbers.items()}
    counts, left = {}, cut.left
    for name, tensor in numbers.items():
        counts[name] = ties = 0
        for keys in _keys(tensor, cut.dtype):
            counts[name] += int((keys > cut.key).sum())
            ties += int((keys == cut.key).sum())
        taken = min(ties, left // costs[name])
        counts[name] += taken
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
    kept = torch.empty(numbers.numel(), dtype=torch.bool, device=numbers.device)
    left, begin = cut.left, 0
    for keys in _keys(numbers, cut.dtype):
        part = kept[begin : begin + len(keys)]
        torch.gt(keys, cut.key, out=part)
        if left:
            ties = (keys == cut.key).nonzero().flatten()[:left]
            part[ties] = True
            left -= len(ties)
        begin += len(keys)
    return kept.view(numbers.shape)


def _cut(numbers: Mapping[str, Tensor], budget: int, costs: Mapping[str, int]) -> _Cut:
    dtype = _common(numbers)
    bits = _KEYS[dtype][1]
    prefix, left = 0, budget  # the leading digits of the cut, and what those above them leave
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        cost = torch.zeros(1 << _DIGIT, dtype=torch.long)
        for name, tensor in numbers.items():
            cost += _histogram(tensor, dtype, shift, prefix) * costs[name]
        reached = cost.flip(0).cumsum(0)  # by all from the highest digit down to each
        paid = int((reached <= left).sum())  # so many digits are paid for wholly
        if paid == 1 << _DIGIT:
            return _Cut(None, 0, dtype)
        left -= int(reached[paid - 1]) if paid else 0
        prefix = (prefix << _DIGIT) | ((1 << _DIGIT) - 1 - paid)
    return _Cut(prefix - (1 << (bits - 1)), left, dtype)


def _histogram(numbers: Tensor, dtype: torch.dtype, shift: int, prefix: int) -> Tensor:
    """How many numbers with these leading digits have each next digit; (65,536,), on the CPU."""
    bits = _KEYS[dtype][1]
    counts = torch.zeros(1 << _DIGIT, dtype=torch.long, device=numbers.device)
    for keys in _keys(numbers, dtype):
        if shift < bits - _DIGIT:  # not the first digit: only those that begin as the cut does
            sign = 1 << (bits - _DIGIT - shift - 1)
            keys = _those(keys, (keys >> (shift + _DIGIT)) == prefix - sign)
            digits = (keys >> shift) & ((1 << _DIGIT) - 1)
        else:
            digits = (keys >> shift) + (1 << (_DIGIT - 1))
        counts += torch.bincount(digits, minlength=1 << _DIGIT)
    return counts.cpu()


def _those(keys: Tensor, wanted: Tensor) -> Tensor:
    """The keys that are wanted; on a CPU NumPy picks them out seven times as fast as torch."""
    if keys.device.type != "cpu":
        return keys[wanted]
    return torch.from_numpy(keys.numpy()[wanted.numpy()])


def _keys(numbers: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks of integers that are ordered as the numbers are; -0.0 is +0.0."""
    integers, bits = _KEYS[dtype]
    for block in numbers.detach().reshape(-1).split(_BLOCK):
        # Below zero, floats grow towards minus infinity with their bits; 0.0 makes -0.0 to +0.0.
        raw = block.to(dtype).add(0.0).view(integers)
        yield raw ^ ((raw >> (bits - 1)) & ((1 << (bits - 1)) - 1))


def _common(numbers: Mapping[str, Tensor]) -> torch.dtype:
    """float32 where it holds all numbers exactly, else float64."""
    exact = (torch.float32, torch.float16, torch.bfloat16, torch.bool)
    return torch.float32 if all(t.dtype in exact for t in numbers.values()) else torch.float64

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
class Cut:
    """Where the highest numbers end: all above `key` are among them, of those at it the first.

    Args:
        key: of the last number, as an integer of the same order (see `_keys`).
        dtype: the float type that the numbers were compared in.
        ties: by name, how many of those at `key` are among the highest.
        above: by name, how many are above it.
    """

    key: int
    dtype: torch.dtype
    ties: Mapping[str, int]
    above: Mapping[str, int]


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
    return {name: cut.above[name] + cut.ties[name] for name in numbers}


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
    kept = torch.empty(numbers.numel(), dtype=torch.bool, device=numbers.device)
    left, begin = cut.ties[""], 0
    for keys in _keys(numbers, cut.dtype):
        part = kept[begin : begin + len(keys)]
        torch.gt(keys, cut.key, out=part)
        if left:
            ties = (keys == cut.key).nonzero().flatten()[:left]
            part[ties] = True
            left -= len(ties)
        begin += len(keys)
    return kept.view(numbers.shape)


def _cut(numbers: Mapping[str, Tensor], budget: int, costs: Mapping[str, int]) -> Cut:
    dtype = _common(numbers)
    bits = _KEYS[dtype][1]
    above = dict.fromkeys(numbers, 0)
    prefix, spent = 0, 0  # the leading digits of the cut, and what all above them cost
    found: dict[str, Tensor] = {}
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        found = {name: _histogram(t, dtype, shift, prefix) for name, t in numbers.items()}
        cost = torch.zeros(1 << _DIGIT, dtype=torch.long)
        for name, h in found.items():
            cost += h * costs[name]
        # What is taken if the cut is at this digit or above it, from the highest digit down.
        reached = spent + cost.flip(0).cumsum(0)
        place = int((reached <= budget).sum())  # so many digits are paid for wholly
        digit = (1 << _DIGIT) - 1 - place
        if digit < 0:  # all of them
            return Cut(_lowest(bits), dtype, dict.fromkeys(numbers, 0), _sizes(numbers))
        for name, h in found.items():
            above[name] += int(h[digit + 1 :].sum())
        spent = int(reached[place - 1]) if place else spent
        prefix = (prefix << _DIGIT) | digit
    ties = dict.fromkeys(numbers, 0)
    for name, h in found.items():
        there = int(h[digit])
        ties[name] = min(there, (budget - spent) // costs[name])
        spent += ties[name] * costs[name]
        if ties[name] < there:
            break
    return Cut(prefix - (1 << (bits - 1)), dtype, ties, above)


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


def _lowest(bits: int) -> int:
    return -(1 << (bits - 1))


def _sizes(numbers: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.numel() for name, tensor in numbers.items()}

"""Which bucket and which sign an entry of a hashed weight has: the same on every platform.

The hash of entry i is the i-th output of SplitMix64 with a seed, in integers alone; so a layer is
told by its buckets and its seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_BUCKETS = 2**30
"""A signed code must fit into 32 bits."""

_CHUNK = 1 << 20  # entries that are hashed at a time, as integers of 64 bits


def split_mix(seed: int, start: int, end: int, *, device: torch.device | None = None) -> Tensor:
    """Outputs `start` to `end` of SplitMix64: int64, two's complement of its 64 bits.

    z = seed + (i + 1) * 0x9E3779B97F4A7C15, mixed by two rounds of xor-shift and multiply. It is
    one to one: no two entries have the same value.

    Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, with the
        constants of Vigna's splitmix64.c (mix 13 of Stafford).

    >>> split_mix(1234567, 0, 2).tolist()
    [6457827717110365317, 3203168211198807973]
    """
    z = torch.arange(start + 1, end + 1, dtype=torch.int64, device=device)
    z = z * _signed(0x9E3779B97F4A7C15) + _signed(seed % 2**64)
    z = (z ^ _right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _right(z, 31)


def signed_codes(
    count: int, buckets: int, seed: int, *, even: bool = False, device: torch.device | None = None
) -> Tensor:
    """For each entry its bucket, plus `buckets` if its sign is minus: (count,) int32.

    The code of an entry indexes the table `[buckets, -buckets]`.

    Args:
        count: entries.
        buckets: at most `MAX_BUCKETS`.
        seed: 64 bits.
        even: entries are dealt to the buckets in the order of their hashes, so each bucket has
            count / buckets of them, rounded down or up; with `buckets == count` one each.

    >>> signed_codes(6, 3, 0).tolist(), signed_codes(6, 3, 0, even=True).tolist()
    ([5, 1, 3, 2, 3, 0], [3, 2, 5, 1, 3, 1])
    """
    codes = torch.empty(count, dtype=torch.int32, device=device)
    if even:
        mixed = split_mix(seed, 0, count, device=device)
        order = mixed.argsort()  # no two are equal
        codes[order] = (torch.arange(count, device=device) % max(buckets, 1)).int()
        return codes + buckets * (mixed & 1).int()
    for start in range(0, count, _CHUNK):
        end = min(start + _CHUNK, count)
        mixed = split_mix(seed, start, end, device=device)
        bucket = (_right(mixed, 32) * buckets) >> 32  # of the high half
        codes[start:end] = (bucket + buckets * (mixed & 1)).int()  # the sign of the lowest bit
    return codes


def _signed(value: int) -> int:
    """The number of 64 bits as two's complement."""
    return value - 2**64 if value >= 2**63 else value


def _right(values: Tensor, bits: int) -> Tensor:
    """A shift that fills with zeros; torch's own fills with the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)

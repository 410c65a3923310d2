"""The difference of two rows of words: small numbers where a tensor is close to its base.

    order(x) = x with its sign bit set if that is clear, NOT x otherwise    (floating point)
    order(x) = x                                                            (everything else)
    d        = order(word) - order(base)                                    (mod 2^n)
    z        = 2 d XOR (all ones if the top bit of d is set, else 0)        (mod 2^n, "zigzag")

`order` counts floating-point numbers from the most negative to the largest, so `d` is the number
of representable steps between the two, and z is 0 for equal words, 1 for one step down, 2 for one
up. All of it is a bijection: NaN and -0.0 come back as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tersor.core.errors import FormatError
from tersor.store.words import Words

_BLOCK_BYTES = 1 << 18  # of words that are worked on at once: they stay in the processor's cache

# The words of a scale without a sign and of two numbers in one byte are no ordered floats.
_NOT_ORDERED = ("torch.float8_e8m0fnu", "torch.float4_e2m1fn_x2")


def ordered_as_float(dtype: torch.dtype) -> bool:
    """Whether the words of a dtype are floating-point numbers with a sign bit on top.

    >>> [ordered_as_float(d) for d in (torch.bfloat16, torch.complex64, torch.int32)]
    [True, True, False]
    """
    return (dtype.is_floating_point or dtype.is_complex) and str(dtype) not in _NOT_ORDERED


def difference(words: Words, base: Words, dtype: torch.dtype) -> Words:
    """How far each word is from the base's.

    Args:
        words, base: (count,) unsigned, of the same size of 1, 2, 4 or 8 bytes.
        dtype: of the tensors whose words they are.

    Returns:
        (count,) of the same size, 0 where the words are equal.

    Raises:
        FormatError: the two are not of one kind.

    Source: zigzag as in protocol buffers; the order of floats as in Dawson 2012, "Comparing
    floating point numbers", but with the negative ones below zero instead of mirrored.

    >>> one, next_up = torch.tensor([1.0]), torch.nextafter(torch.ones(1), torch.tensor(2.0))
    >>> difference(next_up.numpy().view("u4"), one.numpy().view("u4"), torch.float32).tolist()
    [2]
    """
    _require_same_kind(words, base)
    out = np.empty_like(words)
    floats, top = ordered_as_float(dtype), words.itemsize * 8 - 1
    for block in _blocks(words):
        d = _order(words[block], top) if floats else words[block].copy()
        d -= _order(base[block], top) if floats else base[block]
        sign = _spread(d, top)
        np.left_shift(d, 1, out=d)
        np.bitwise_xor(d, sign, out=out[block])
    return out


def restore(differences: Words, base: Words, dtype: torch.dtype) -> Words:
    """The words that `difference` was given.

    Args, Raises: as `difference`.
    """
    _require_same_kind(differences, base)
    out = np.empty_like(differences)
    floats, top = ordered_as_float(dtype), differences.itemsize * 8 - 1
    one = differences.dtype.type(1)
    for block in _blocks(differences):
        z = differences[block]
        d = np.negative(z & one)
        d ^= z >> one
        d += _order(base[block], top) if floats else base[block]
        if floats:
            _from_order(d, top)
        out[block] = d
    return out


def _order(words: Words, top: int) -> Words:
    ordered = _spread(words, top)
    ordered |= words.dtype.type(1 << top)
    ordered ^= words
    return ordered


def _from_order(ordered: Words, top: int) -> None:
    """Undo `_order` in place: there the top bit says that there was no sign."""
    flip = ~_spread(ordered, top)
    flip |= ordered.dtype.type(1 << top)
    ordered ^= flip


def _spread(words: Words, top: int) -> NDArray[Any]:
    """All ones where the top bit is set, else 0."""
    return (words.view(f"i{words.itemsize}") >> top).view(words.dtype)


def _blocks(words: Words) -> list[slice]:
    size = _BLOCK_BYTES // words.itemsize
    return [slice(start, start + size) for start in range(0, len(words), size)]


def _require_same_kind(words: Words, base: Words) -> None:
    if words.dtype != base.dtype or words.shape != base.shape:
        raise FormatError(
            f"{words.size} words of {words.itemsize} bytes, "
            f"but {base.size} of {base.itemsize} bytes in the base"
        )

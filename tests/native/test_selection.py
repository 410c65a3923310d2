"""The counting behind `prune.selection`, against NumPy."""

import numpy as np
import pytest

from tersor import _native

SIGNS = {np.float32: (np.uint32, 1 << 31), np.float64: (np.uint64, 1 << 63)}


def numbers(dtype):
    draws = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, 5e-324, np.finfo(dtype).max, 1.0, 1.0, -1.0]
    return np.concatenate([draws.normal(size=500), special, np.full(40, -np.inf)]).astype(dtype)


def keys(values):
    """Integers of the order of the floats, by the definition: the bits, or minus their rest."""
    unsigned, sign = SIGNS[values.dtype.type]
    bits = [int(b) for b in (values + 0.0).view(unsigned)]
    return [b if b < sign else -(b - sign) - 1 for b in bits]


@pytest.mark.parametrize("dtype", SIGNS)
def test_digits_are_counted_for_each_prefix(dtype):
    values = numbers(dtype)
    width = 8 * values.itemsize
    shifted = [k + (1 << (width - 1)) for k in keys(values)]
    for shift in range(width - 16, -1, -16):
        for prefix in {k >> (shift + 16) for k in shifted}:
            expected = np.zeros(1 << 16, np.int64)
            for key in shifted:
                if key >> (shift + 16) == prefix:
                    expected[(key >> shift) & 0xFFFF] += 3
            counts = np.zeros(1 << 16, np.int64)
            _native.add_digits(values, shift, prefix, 3, counts)
            assert np.array_equal(counts, expected)
            if shift < width - 32:
                break  # one prefix of the long tails is enough


@pytest.mark.parametrize("dtype", SIGNS)
def test_what_lies_above_a_key_is_counted_and_marked(dtype):
    values = numbers(dtype)
    mine = keys(values)
    for key in {mine[0], mine[500], keys(np.array([1.0], dtype))[0], keys(-np.ones(1, dtype))[0]}:
        above, ties = sum(k > key for k in mine), sum(k == key for k in mine)
        assert _native.count_above(values, key) == (above, ties)
        out = np.ones(len(values), np.bool_)
        left = _native.mark_above(values, key, 1, out)
        assert left == 0
        first = mine.index(key)
        assert np.array_equal(out, [k > key or i == first for i, k in enumerate(mine)])


def test_a_budget_pays_from_the_highest_digit_down():
    counts = np.array([9, 4, 0, 2, 1], np.int64)
    assert _native.pay(counts, 0) == (0, 0)
    assert _native.pay(counts, 3) == (3, 0)
    assert _native.pay(counts, 6) == (3, 3)
    assert _native.pay(counts, 16) == (5, 0)


def test_sizes_that_do_not_fit_are_refused():
    values = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="add_digits: shift 8"):
        _native.add_digits(values, 8, 0, 1, np.zeros(1 << 16, np.int64))
    with pytest.raises(ValueError, match="7 counts"):
        _native.add_digits(values, 16, 0, 1, np.zeros(7, np.int64))
    with pytest.raises(ValueError, match="3 places for 4 numbers"):
        _native.mark_above(values, 0, 0, np.zeros(3, np.bool_))

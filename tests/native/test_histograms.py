"""Counting into bins, and what ranges cost there, against NumPy and the published loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor._native import count_into_bins, histogram_errors, kl_thresholds


@pytest.mark.parametrize("stride", [1, 3, -2])
def test_bins_are_those_of_numpy_and_zeros_are_told_apart(stride):
    values = np.random.default_rng(0).normal(size=999).astype(np.float32)
    values[::7], values[3], values[4], values[5] = 0, -0.5, 0.5, -4.0
    counts = np.arange(16)
    zeros = count_into_bins(values[::stride], 0.5, counts)
    seen = values[::stride]
    expected = np.histogram(seen[seen != 0], np.arange(-8, 9) * 0.5)[0]
    assert (counts - np.arange(16)).tolist() == expected.tolist()
    assert zeros == (seen == 0).sum()


@pytest.mark.parametrize("value", [4.0, -4.25, np.inf, np.nan])
def test_a_value_in_no_bin_is_refused(value):
    with pytest.raises(ValueError, match=r"in none of 16 bins of width 0\.5"):
        count_into_bins(np.array([0.25, value], np.float32), 0.5, np.zeros(16, np.int64))


def divergence(counts, kept, levels):
    """KL(P || Q) of Migacz's loop, for one number of bins; None: Q lacks what P has."""
    p = counts[:kept].astype(float)
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    for begin, end in itertools.pairwise(np.arange(levels + 1) * kept // levels):
        filled = counts[begin:end] > 0
        if filled.any():
            q[begin:end][filled] = counts[begin:end].sum() / filled.sum()
    if not q.any() or (q[p > 0] == 0).any():
        return None
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@given(
    st.lists(
        st.lists(st.sampled_from([0, 0, 1, 2, 3, 50]), min_size=30, max_size=30), min_size=1
    ).filter(lambda rows: all(sum(row) for row in rows)),
    st.integers(1, 31),
)
def test_no_number_of_bins_diverges_less(rows, levels):
    found = kl_thresholds(np.array(rows).ravel(), len(rows), levels)
    for row, kept in zip(np.array(rows), found, strict=True):
        of = {i: divergence(row, i, levels) for i in range(levels, 31)}
        known = {i: d for i, d in of.items() if d is not None}
        least = min(known.values(), default=0.0)
        assert kept == max((i for i, d in known.items() if d <= least + 1e-9), default=30)


@pytest.mark.parametrize(("low", "high"), [(-7, 7), (0, 15), (0, 65535)])
def test_errors_are_those_of_rounding_each_center(low, high):
    draw = np.random.default_rng(0)
    centers, counts = draw.normal(size=203), draw.integers(1, 99, 203).astype(float)
    scales, zeros = draw.uniform(0.01, 0.4, 9), draw.integers(0, 16, 9).astype(float)
    codes = np.clip(np.rint(centers / scales[:, None]) + zeros[:, None], low, high)
    gaps = (codes - zeros[:, None]) * scales[:, None] - centers
    found = histogram_errors(centers, counts, scales, zeros, low, high)
    np.testing.assert_allclose(found, (gaps**2 * counts).sum(1), rtol=1e-12)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="7 counts of 2 histograms, 1 levels"):
        kl_thresholds(np.zeros(7, np.int64), 2, 1)
    with pytest.raises(ValueError, match="8 counts of 2 histograms, 0 levels"):
        kl_thresholds(np.zeros(8, np.int64), 2, 0)
    with pytest.raises(ValueError, match="a count is negative"):
        kl_thresholds(np.array([1, -1]), 1, 1)
    two, three = np.ones(2), np.ones(3)
    with pytest.raises(ValueError, match="2 centers, 3 counts"):
        histogram_errors(two, three, two, two, 0, 1)

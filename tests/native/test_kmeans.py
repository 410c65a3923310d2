import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import kmeans_1d


def cost(values, weights):
    return float((weights * (values - np.average(values, weights=weights)) ** 2).sum())


def least_cost(values, weights, k):
    """Over all ways to cut the values into k intervals."""
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), k - 1):
        ends = [0, *cuts, len(values)]
        parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        best = min(best, sum(cost(values[p], weights[p]) for p in parts))
    return best


@settings(deadline=None)
@given(
    pairs=st.dictionaries(st.integers(-50, 50), st.integers(1, 9), min_size=1, max_size=9),
    k=st.integers(1, 10),
    shift=st.sampled_from([0.0, 1e6]),
    scale=st.sampled_from([1.0, 1e-200, 1e150]),
)
def test_the_cost_is_the_least_of_all_partitions(pairs, k, shift, scale):
    values = np.array(sorted(pairs), float)
    weights = np.array([pairs[v] for v in sorted(pairs)], float)
    centroids, boundaries, wcss = kmeans_1d((values + shift) * scale, weights, k)
    clusters = min(k, len(values))
    assert len(centroids) == clusters
    assert boundaries[0] == 0
    assert boundaries[-1] == len(values)
    assert (np.diff(boundaries) > 0).all()
    best = least_cost(values, weights, clusters)
    parts = [slice(a, b) for a, b in itertools.pairwise(boundaries)]
    assert sum(cost(values[p], weights[p]) for p in parts) == pytest.approx(best, abs=1e-9)
    if scale == 1.0:
        assert wcss == pytest.approx(best, abs=1e-9)
        means = [np.average(values[p] + shift, weights=weights[p]) for p in parts]
        assert centroids == pytest.approx(means, rel=1e-15)


def test_never_worse_than_lloyd():
    rng = np.random.default_rng(0)
    for k in (2, 5, 16):
        values = np.unique(rng.standard_normal(500))
        _, _, wcss = kmeans_1d(values, np.ones(len(values)), k)
        for _ in range(5):
            centroids = np.sort(rng.choice(values, k, replace=False))
            for _ in range(50):
                codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
                sums = np.bincount(codes, values, k)
                sizes = np.bincount(codes, minlength=k)
                centroids = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
            codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
            assert wcss <= ((values - centroids[codes]) ** 2).sum() + 1e-12


def test_as_many_clusters_as_values_cost_nothing_and_keep_them():
    values = np.array([0.1, 0.2, 1e-300, 7.0, -3.0])
    values.sort()
    centroids, _, wcss = kmeans_1d(values, np.full(5, 3.0), 99)
    assert centroids.tolist() == values.tolist()
    assert wcss == 0.0


def test_weights_are_multiplicities():
    values, weights = np.array([0.0, 1.0, 2.0, 9.0]), np.array([1.0, 5.0, 1.0, 2.0])
    centroids, boundaries, wcss = kmeans_1d(values, weights, 2)
    assert (centroids.tolist(), boundaries.tolist(), wcss) == ([1.0, 9.0], [0, 3, 4], 2.0)


@pytest.mark.parametrize(
    ("values", "weights", "k", "match"),
    [
        ([1.0, 1.0], [1.0, 1.0], 1, "values do not ascend strictly at 1"),
        ([1.0, np.nan], [1.0, 1.0], 1, "value or weight 1 is not finite"),
        ([1.0], [0.0], 1, "value or weight 0 is not finite, or the weight is not positive"),
        ([1.0], [1.0, 2.0], 1, "1 values, but 2 weights"),
        ([], [], 1, "no values"),
        ([1.0], [1.0], 0, "k is 0"),
    ],
)
def test_inputs_that_break_the_rules_are_refused(values, weights, k, match):
    with pytest.raises(ValueError, match=match):
        kmeans_1d(np.array(values, float), np.array(weights, float), k)

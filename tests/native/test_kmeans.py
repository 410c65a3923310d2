import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import count_below, kmeans_1d, lloyd

NONE = np.empty(0)  # weights of 1
MANY = 1 << 20  # bins


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
    centroids, boundaries, wcss, least = kmeans_1d((values + shift) * scale, weights, k, MANY)
    assert least == wcss
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
        _, _, wcss, _ = kmeans_1d(values, NONE, k, MANY)
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
    centroids, _, wcss, _ = kmeans_1d(values, np.full(5, 3.0), 99, MANY)
    assert centroids.tolist() == values.tolist()
    assert wcss == 0.0


def test_weights_are_multiplicities():
    values, weights = np.array([0.0, 1.0, 2.0, 9.0]), np.array([1.0, 5.0, 1.0, 2.0])
    centroids, boundaries, wcss, _ = kmeans_1d(values, weights, 2, MANY)
    assert (centroids.tolist(), boundaries.tolist(), wcss) == ([1.0, 9.0], [0, 3, 4], 2.0)


def table(values, weights, k):
    """The least cost by the textbook recurrence over (clusters, values covered), in O(k n^2)."""
    w, s, q = (np.concatenate([[0], np.cumsum(weights * values**p)]) for p in (0, 1, 2))
    n = len(values)
    begin, end = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    with np.errstate(invalid="ignore", divide="ignore"):
        costs = (q[end] - q[begin]) - (s[end] - s[begin]) ** 2 / (w[end] - w[begin])
    costs[begin >= end] = np.inf
    best = costs[0]
    for _ in range(k - 1):
        best = (best[:, None] + costs).min(axis=0)
    return best[n]


@pytest.mark.parametrize("k", [2, 3, 7, 20, 61])
@pytest.mark.parametrize("kind", ["normal", "uniform", "even", "heavy", "clumps"])
def test_the_cost_is_that_of_the_textbook_recurrence(kind, k):
    rng = np.random.default_rng(k)
    values = {
        "normal": lambda: rng.standard_normal(200),
        "uniform": lambda: rng.uniform(-1, 1, 200),
        "even": lambda: np.arange(200.0),  # ties at every price
        "heavy": lambda: rng.standard_cauchy(200),
        "clumps": lambda: np.round(rng.standard_normal(200)) + 1e-3 * rng.standard_normal(200),
    }[kind]()
    values = np.unique(values - values.mean())
    weights = rng.integers(1, 9, len(values)).astype(float)
    _, boundaries, wcss, _ = kmeans_1d(values, weights, k, MANY)
    assert len(boundaries) == k + 1
    assert wcss == pytest.approx(table(values, weights, k), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_where_no_price_gives_k_intervals_two_paths_are_joined(seed):
    # Gaps of whole numbers and equal weights: many cuts cost the same, so prices jump over k.
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.integers(1, 4, rng.integers(6, 14))).astype(float)
    ones = np.ones(len(values))
    for k in range(1, len(values) + 1):
        _, boundaries, wcss, _ = kmeans_1d(values, NONE, k, MANY)
        assert len(boundaries) == k + 1
        assert (np.diff(boundaries) > 0).all()
        assert wcss == pytest.approx(table(values - values.mean(), ones, k), abs=1e-9)


def test_equal_values_are_a_heavier_one():
    values = np.array([0.0, 1.0, 1.0, 1.0, 2.0, 2.5, 9.0, 9.0])
    once, counts = np.unique(values, return_counts=True)
    for k in range(1, 7):
        many = kmeans_1d(values, NONE, k, MANY)
        one = kmeans_1d(once, counts.astype(float), k, MANY)
        assert many[0].tolist() == one[0].tolist()
        assert many[2] == pytest.approx(one[2], abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), bins=st.integers(1, 80))
def test_with_few_bins_the_optimum_lies_between_the_bound_and_the_cost(seed, k, bins):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(300) ** rng.integers(1, 4)).astype(np.float32)
    _, _, best, _ = kmeans_1d(values, NONE, k, MANY)
    centroids, _, wcss, least = kmeans_1d(values, NONE, k, bins)
    assert least <= best * (1 + 1e-9) <= wcss * (1 + 1e-6)
    assert len(centroids) <= k
    gaps = np.abs(values.astype(float)[:, None] - centroids).min(axis=1)
    assert wcss == pytest.approx((gaps**2).sum(), rel=1e-6)


def test_many_bins_leave_little_between_the_bound_and_the_cost():
    values = np.sort(np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    best = kmeans_1d(values, NONE, 16, MANY)[2]
    last = np.inf
    for bins in (256, 1024, 4096, 16384):
        _, _, wcss, least = kmeans_1d(values, NONE, 16, bins)
        assert best * (1 - 1e-9) <= wcss <= best * (1 + (16 / bins) ** 2)
        assert 1 - least / best <= last / 8  # it goes with 1 / bins^2
        last = 1 - least / best
    assert last < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_a_lloyd_step_moves_each_centroid_to_the_mean_of_what_is_nearest(weighted):
    rng = np.random.default_rng(0)
    values = np.sort(rng.standard_normal(5000))
    weights = rng.uniform(0.1, 5, 5000) if weighted else np.ones(5000)
    centroids, cost = np.array([-3.0, -1.0, 0.0, 0.5, 4.0]), np.inf
    for _ in range(4):
        codes = np.abs(values[:, None] - centroids).argmin(axis=1)
        means = [np.average(values[codes == c], weights=weights[codes == c]) for c in range(5)]
        moved, _, wcss, _ = lloyd(values, weights if weighted else NONE, centroids, 1)
        # One step, and then the mean of what is nearest once more.
        codes = np.abs(values[:, None] - np.array(means)).argmin(axis=1)
        again = [np.average(values[codes == c], weights=weights[codes == c]) for c in range(5)]
        assert moved == pytest.approx(again, rel=1e-12, abs=1e-12)
        assert wcss <= cost
        centroids, cost = moved, wcss


def test_an_empty_cluster_is_left_out():
    values = np.array([0.0, 1.0, 10.0])
    assert lloyd(values, NONE, np.array([0.5, 0.5, 5.0, 10.0]), 9)[0].tolist() == [0, 1, 10]


@given(
    st.lists(st.floats(-9, 9, width=32), max_size=30),
    st.lists(st.floats(-9, 9, width=32), max_size=9),
)
def test_borders_below_a_value_are_counted(values, borders):
    ordered = np.array(sorted(borders))
    expected = np.searchsorted(ordered, np.array(values))
    for dtype in (np.float32, np.float64):
        assert count_below(np.array(values, dtype), ordered).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("values", "weights", "k", "match"),
    [
        ([1.0, 0.5], [1.0, 1.0], 1, "value 1 is not finite or below the one before it"),
        ([1.0, np.nan], [1.0, 1.0], 1, "value 1 is not finite"),
        ([1.0], [0.0], 1, "weight 0 is not finite or not positive"),
        ([1.0], [1.0, 2.0], 1, "1 values, but 2 weights"),
        ([], [], 1, "no values"),
        ([1.0], [1.0], 0, "k is 0"),
    ],
)
def test_inputs_that_break_the_rules_are_refused(values, weights, k, match):
    with pytest.raises(ValueError, match=match):
        kmeans_1d(np.array(values, float), np.array(weights, float), k, MANY)

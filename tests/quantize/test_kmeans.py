import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize import kmeans_1d
from tersor.quantize.kmeans import INITS, STARTS, density, linear, random

numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40)
few = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=7)
every_method = pytest.mark.parametrize("init", INITS)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wcss(values: torch.Tensor, centroids: torch.Tensor) -> float:
    """Each value's squared distance to the nearest centroid, all pairs looked at."""
    return float((values[:, None] - centroids[None, :]).square().min(dim=1).values.sum())


def best_of_all_cuts(values: list[float], k: int) -> float:
    """The least cost over every way to cut the sorted values into at most k intervals."""
    ordered, best = sorted(values), math.inf
    for parts in range(1, min(k, len(ordered)) + 1):
        for cuts in itertools.combinations(range(1, len(ordered)), parts - 1):
            ends = [0, *cuts, len(ordered)]
            groups = [ordered[a:b] for a, b in itertools.pairwise(ends)]
            best = min(best, sum(float(np.var(group)) * len(group) for group in groups))
    return best


@given(few, st.integers(1, 4))
def test_exact_is_the_best_of_all_cuts(values, k):
    found = kmeans_1d(tensor(values), k, init="exact")
    assert math.isclose(found.wcss, best_of_all_cuts(values, k), abs_tol=1e-9)


@given(numbers, st.integers(1, 12))
def test_exact_is_never_worse_than_lloyd_from_any_start(values, k):
    exact = kmeans_1d(tensor(values), k, init="exact").wcss
    for init in STARTS:
        lloyd = kmeans_1d(tensor(values), k, init=init, generator=gen()).wcss
        assert exact <= lloyd * (1 + 1e-9) + 1e-12


@given(numbers, st.integers(1, 12), st.sampled_from(sorted(STARTS)))
def test_lloyd_is_never_worse_than_its_start(values, k, start):
    ordered = tensor(values).sort().values
    cost = wcss(ordered, STARTS[start](ordered, k, gen()))
    assert kmeans_1d(ordered, k, init=start, generator=gen()).wcss <= cost * (1 + 1e-9) + 1e-12


@given(values=st.lists(st.integers(-9, 9), min_size=1, max_size=12), k=st.integers(1, 4))
def test_whole_weights_count_as_so_many_values(values, k):
    distinct = sorted(set(values))
    weights = [values.count(v) for v in distinct]
    found = kmeans_1d(tensor(distinct), k, init="exact", weights=tensor(weights))
    many = kmeans_1d(tensor(values), k, init="exact")
    assert math.isclose(found.wcss, many.wcss, abs_tol=1e-9)
    assert found.least == found.wcss


def test_values_of_weight_0_have_no_say_and_are_given_the_nearest():
    values, weights = tensor([9.0, 1.0, 2.0, 5.9]), tensor([3.0, 1.0, 1.0, 0.0])
    found = kmeans_1d(values, 2, init="exact", weights=weights)
    assert found.centroids.tolist() == [1.5, 9.0]
    assert found.codes.tolist() == [1, 0, 0, 1]
    assert found.wcss == 0.5
    alike = kmeans_1d(values, 2, init="exact", weights=torch.zeros(4))
    assert alike.centroids.tolist() == kmeans_1d(values, 2, init="exact").centroids.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"weights of shape \(1,\) for values of \(2,\)"),
        ([1.0, -1.0], "a weight is negative, NaN or infinite"),
        ([1.0, math.nan], "a weight is negative, NaN or infinite"),
    ],
)
def test_weights_that_cannot_be_are_named(weights, message):
    with pytest.raises(ConfigError, match=message):
        kmeans_1d(tensor([1.0, 2.0]), 2, weights=tensor(weights))


@every_method
@given(values=numbers, k=st.integers(1, 12))
def test_clusters_are_intervals_around_their_means(init, values, k):
    values = tensor(values)
    found = kmeans_1d(values, k, init=init, generator=gen())
    assert 1 <= len(found.centroids) <= k
    assert (found.centroids.diff() > 0).all()
    assert found.codes[values.argsort()].diff().ge(0).all()
    assert found.codes.unique().tolist() == list(range(len(found.centroids)))
    # Values nearer than this are one to the costs, which are sums of squares.
    near = 1e-8 * max(1.0, float(values.abs().max()))
    for code, centroid in enumerate(found.centroids):
        assert math.isclose(centroid, values[found.codes == code].mean(), abs_tol=near)
    assert math.isclose(found.wcss, wcss(values, found.centroids), rel_tol=1e-9, abs_tol=1e-12)


@every_method
@given(values=numbers, more=st.integers(0, 3))
def test_with_a_centroid_for_every_distinct_value_there_is_no_error(init, values, more):
    found = kmeans_1d(tensor(values), len(set(values)) + more, init=init, generator=gen())
    assert found.wcss == 0.0
    assert found.centroids.tolist() == sorted(set(values))


@every_method
@pytest.mark.parametrize("value", [0.1, -1e-300, 3e38])
def test_one_value_many_times_is_one_centroid(init, value):
    found = kmeans_1d(torch.full((1000,), value, dtype=torch.float64), 4, init=init)
    assert found.centroids.tolist() == [value]
    assert found.wcss == 0.0


@every_method
@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 3e38, 1e300])
def test_the_clusters_do_not_depend_on_the_size_of_the_values(init, size):
    values = torch.randn(200, dtype=torch.float64, generator=gen()) / 4
    plain = kmeans_1d(values, 5, init=init, generator=gen())
    scaled = kmeans_1d(values * size, 5, init=init, generator=gen())
    assert torch.equal(plain.codes, scaled.codes)
    torch.testing.assert_close(scaled.centroids / size, plain.centroids, rtol=1e-9, atol=0)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_values_of_every_type_and_shape_are_taken(init, dtype):
    values = torch.tensor([[1.0, 9.0], [1.5, 9.5]], dtype=dtype)
    found = kmeans_1d(values, 2, init=init, generator=gen())
    assert found.centroids.tolist() == [1.25, 9.25]
    assert found.codes.tolist() == [0, 1, 0, 1]


def test_linear_starts_equally_spaced_over_the_range():
    values = tensor([-1.0, 0.0, 0.1, 0.2, 7.0])
    assert linear(values, 5, None).tolist() == [-1.0, 1.0, 3.0, 5.0, 7.0]
    assert linear(values, 1, None).numel() == 1


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(1, 9))
def test_density_starts_at_numpys_inverted_cdf(values, k):
    ordered = tensor(values).sort().values
    levels = (np.arange(k) + 0.5) / k
    assume_off_the_steps = np.abs(levels * len(values) - np.round(levels * len(values))) > 1e-9
    expected = np.quantile(ordered.numpy(), levels, method="inverted_cdf")
    found = density(ordered, k, None).numpy()
    assert np.array_equal(found[assume_off_the_steps], expected[assume_off_the_steps])


def test_random_starts_at_distinct_values_that_the_generator_decides():
    values = tensor([1.0] * 50 + [2.0, 3.0, 4.0, 5.0])
    draws = [random(values, 3, torch.Generator().manual_seed(s)).tolist() for s in range(20)]
    assert all(len(set(d)) == 3 and d == sorted(d) and set(d) <= {1, 2, 3, 4, 5} for d in draws)
    assert len({tuple(d) for d in draws}) > 3
    assert random(values, 3, torch.Generator().manual_seed(0)).tolist() == draws[0]


def test_linear_starts_at_large_weights_that_density_passes_over():
    values = torch.cat([torch.randn(10_000, generator=gen()) * 0.01, tensor([1.0, -1.0])])
    ordered = values.sort().values
    assert linear(ordered, 8, None).abs().max() == 1.0
    assert density(ordered, 8, None).abs().max() < 0.1


@pytest.mark.parametrize(
    ("values", "k", "init", "message"),
    [
        ([1.0], 0, "linear", "k is 0; expected at least 1"),
        ([1.0], -3, "exact", "k is -3; expected at least 1"),
        ([], 2, "exact", "no values"),
        ([1.0, math.nan], 2, "linear", "NaN or infinite"),
        ([1.0, math.inf], 2, "exact", "NaN or infinite"),
        ([1.0], 2, "linaer", "init 'linaer'; did you mean 'linear'"),
    ],
)
def test_what_cannot_be_clustered_is_named(values, k, init, message):
    with pytest.raises(ConfigError, match=message):
        kmeans_1d(tensor(values), k, init=init)

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize import Points, kmeans_1d, kmeans_vectors, vector_kmeans
from tersor.quantize.kmeans import density


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def cost_of(points: Points, centroids: Tensor, codes: Tensor) -> float:
    """The cost by its definition, one vector after the other."""
    total = 0.0
    for place, vector in enumerate(points.vectors):
        error = vector - centroids[codes[place]]
        if points.weights is not None:
            error = points.weights[place].sqrt() * error
        if points.moments is not None:
            error = torch.linalg.cholesky(points.moments[points.which[place]]).mT @ error
        total += float(error.square().sum())
    return total


def moments(count: int, size: int, seed: int = 5) -> Tensor:
    roots = drawn(count, size, size, seed=seed)
    return roots @ roots.mT + 0.1 * torch.eye(size, dtype=torch.float64)


KINDS = {
    "plain": lambda n, d: Points(drawn(n, d)),
    "weights": lambda n, d: Points(drawn(n, d), drawn(n, d, seed=1).square()),
    "moments": lambda n, d: Points(drawn(n, d), None, moments(3, d), torch.arange(n) % 3),
    "both": lambda n, d: Points(
        drawn(n, d), (drawn(n, d, seed=2) > 0).double(), moments(3, d), torch.arange(n) % 3
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def until_nothing_changes(monkeypatch):
    monkeypatch.setattr(vector_kmeans, "TOLERANCE", 0.0)


def test_lloyd_is_that_of_scikit_learn(until_nothing_changes):
    vectors = drawn(500, 3)
    start = vectors[:7]
    found = kmeans_vectors(Points(vectors), 7, start=start)
    other = SklearnKMeans(7, init=start.numpy(), n_init=1, tol=0, max_iter=100).fit(vectors.numpy())
    assert math.isclose(found.cost, other.inertia_, rel_tol=1e-9)
    assert found.codes.tolist() == other.labels_.tolist()


def test_vectors_of_one_number_are_clustered_as_numbers(until_nothing_changes):
    values = drawn(300)
    start = density(values.sort().values, 6, None)
    found = kmeans_vectors(Points(values[:, None]), 6, start=start[:, None])
    line = kmeans_1d(values, 6, init="density")
    assert math.isclose(found.cost, line.wcss, rel_tol=1e-9)
    torch.testing.assert_close(found.centroids.flatten().sort().values, line.centroids)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_no_run_beats_the_best_of_all_partitions_and_one_of_many_reaches_it(pairs, k):
    vectors = torch.tensor(pairs, dtype=torch.float64)
    best = math.inf
    for labels in itertools.product(range(k), repeat=len(pairs)):
        codes, cost = torch.tensor(labels), 0.0
        for code in codes.unique():
            members = vectors[codes == code]
            cost += float((members - members.mean(0)).square().sum())
        best = min(best, cost)
    costs = [kmeans_vectors(Points(vectors), k, generator=gen(s)).cost for s in range(30)]
    assert min(costs) >= best - 1e-9
    assert math.isclose(min(costs), best, abs_tol=1e-9)


@every_kind
def test_the_cost_is_that_of_the_definition_and_each_vector_has_the_cheapest_centroid(kind):
    points = KINDS[kind](60, 3)
    found = kmeans_vectors(points, 4, start=points.vectors[:4])
    assert math.isclose(found.cost, cost_of(points, found.centroids, found.codes), rel_tol=1e-9)
    for place in range(60):
        one = Points(
            points.vectors[place : place + 1],
            None if points.weights is None else points.weights[place : place + 1],
            points.moments,
            None if points.which is None else points.which[place : place + 1],
        )
        costs = [cost_of(one, found.centroids, torch.tensor([c])) for c in range(4)]
        assert costs[found.codes[place]] <= min(costs) + 1e-12


@every_kind
def test_no_centroid_can_be_moved_to_lower_the_cost(kind, until_nothing_changes):
    points = KINDS[kind](60, 3)
    found = kmeans_vectors(points, 4, start=points.vectors[:4], steps=1000)
    for code, coordinate in itertools.product(range(4), range(3)):
        for step in (1e-4, -1e-4):
            moved = found.centroids.clone()
            moved[code, coordinate] += step
            assert cost_of(points, moved, found.codes) > found.cost


@every_kind
def test_each_step_lowers_the_cost(kind):
    points = KINDS[kind](200, 4)
    start = points.vectors[:9]
    costs = [kmeans_vectors(points, 9, start=start, steps=steps).cost for steps in range(8)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(costs))
    assert costs[-1] < 0.9 * costs[0]


def test_whole_weights_count_as_so_many_vectors(until_nothing_changes):
    vectors, counts = drawn(40, 2), torch.arange(40) % 4
    weighted = Points(vectors, counts.double()[:, None].expand(-1, 2))
    many = Points(vectors.repeat_interleave(counts, 0))
    start = vectors[[1, 2, 3]]
    one, other = (kmeans_vectors(points, 3, start=start) for points in (weighted, many))
    assert math.isclose(one.cost, other.cost, rel_tol=1e-9)
    torch.testing.assert_close(one.centroids, other.centroids)


def test_a_coordinate_without_weight_has_no_say():
    vectors = torch.tensor([[1.0, 1e6], [1.0, -1e6], [9.0, 0.0], [9.0, 5.0]])
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    found = kmeans_vectors(Points(vectors, weights), 2, generator=gen())
    assert found.cost == 0
    assert found.codes[0] == found.codes[1] != found.codes[2] == found.codes[3]


def test_clusters_without_vectors_move_to_where_it_costs_most():
    vectors = torch.cat([drawn(50, 2), drawn(50, 2) + 100])
    start = torch.tensor([[0.0, 0.0], [1e6, 1e6], [-1e6, 0.0]])
    found = kmeans_vectors(Points(vectors), 3, start=start)
    assert found.codes.unique().tolist() == [0, 1, 2]
    assert found.cost < 250


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 3))
def test_with_a_centroid_for_every_distinct_vector_there_is_no_error(rows, more):
    table = drawn(4, 3) * torch.tensor([1e-6, 1.0, 1.0 + 1e-9, 1e6])[:, None]
    vectors = table[rows].float()
    k = len(vectors.unique(dim=0)) + more
    found = kmeans_vectors(Points(vectors), k, generator=gen())
    assert found.cost == 0
    assert torch.equal(found.centroids[found.codes].float(), vectors)
    assert len(found.centroids) <= k


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_clusters_do_not_depend_on_the_size_of_the_vectors(size, monkeypatch):
    monkeypatch.setattr(vector_kmeans, "_EXACT_PAIRS", 0)  # float32, where squares may overflow
    vectors = drawn(200, 4).float()
    plain = kmeans_vectors(Points(vectors), 5, generator=gen())
    scaled = kmeans_vectors(Points(vectors * size), 5, generator=gen())
    assert torch.equal(plain.codes, scaled.codes)
    torch.testing.assert_close(scaled.centroids / size, plain.centroids, rtol=1e-5, atol=0)


def test_large_tables_are_gone_through_in_parts(monkeypatch):
    points = KINDS["weights"](300, 3)
    whole = kmeans_vectors(points, 5, generator=gen())
    monkeypatch.setattr(vector_kmeans, "_PAIRS_AT_ONCE", 1)
    parts = kmeans_vectors(points, 5, generator=gen())
    assert torch.equal(whole.codes, parts.codes)


@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (torch.ones(2, 2), 0, "k is 0; expected at least 1"),
        (torch.ones(0, 2), 2, "no vectors to cluster"),
        (torch.tensor([[1.0, math.nan]]), 2, "a value is NaN or infinite"),
    ],
)
def test_what_cannot_be_clustered_is_named(vectors, k, message):
    with pytest.raises(ConfigError, match=message):
        kmeans_vectors(Points(vectors), k)

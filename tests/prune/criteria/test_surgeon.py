import itertools

import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.prune.criteria.surgeon import (
    inverse_curvature,
    inverse_diagonal,
    losses,
    repaired,
    repaired_by_vectors,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def quadratic(curvature, change):
    return 0.5 * change @ curvature @ change


@pytest.fixture
def curvature():
    vectors = draw(9, 6)
    return vectors.T @ vectors / 9 + 0.01 * torch.eye(6).double()


@pytest.mark.parametrize("count", [0, 1, 3, 6, 17])
def test_the_recursion_gives_the_inverse_that_is_computed_directly(count):
    vectors = draw(2, count, 6)
    direct = torch.linalg.inv(vectors.mT @ vectors / 5 + 0.1 * torch.eye(6).double())
    torch.testing.assert_close(inverse_curvature(vectors, 5, 0.1), direct, rtol=1e-9, atol=1e-9)
    diagonal = direct.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inverse_diagonal(vectors, 5, 0.1), diagonal, rtol=1e-9, atol=1e-9)


def test_one_vector_at_a_time_it_is_the_recursion_of_the_paper():
    vectors, inverse = draw(17, 6), torch.eye(6).double() / 0.1
    for v in vectors:  # eq. 9
        step = inverse @ v
        inverse = inverse - torch.outer(step, step) / (17 + v @ step)
    torch.testing.assert_close(inverse_curvature(vectors[None], 17, 0.1)[0], inverse)


def test_the_loss_rises_by_the_score_once_the_rest_has_made_up(curvature):
    weights = draw(6, seed=1)
    scores = losses(weights, torch.linalg.inv(curvature).diagonal())
    for q in range(6):
        kept = torch.arange(6) != q
        after = repaired(weights, kept, curvature)
        assert after[q] == 0
        rise = quadratic(curvature, after - weights)
        torch.testing.assert_close(rise, scores[q])
        # That is the least rise: along any other direction that keeps w_q at 0 it is higher.
        assert torch.allclose((curvature @ (after - weights))[kept], torch.zeros(5).double())


def test_with_a_diagonal_curvature_the_score_is_that_of_obd_and_no_other_weight_moves():
    diagonal, weights = torch.tensor([1.0, 2.0, 3.0]).double(), draw(3, seed=2)
    curvature = torch.diag(diagonal)
    scores = losses(weights, torch.linalg.inv(curvature).diagonal())
    torch.testing.assert_close(scores, diagonal * weights**2 / 2)
    kept = torch.tensor([True, False, True])
    torch.testing.assert_close(repaired(weights, kept, curvature), weights * kept)


def test_several_at_once_are_the_joint_update_of_the_paper(curvature):
    weights, inverse = draw(6, seed=3), torch.linalg.inv(curvature)
    for gone in itertools.combinations(range(6), 3):
        unit = torch.eye(6).double()[:, list(gone)]  # E
        step = torch.linalg.solve(unit.T @ inverse @ unit, unit.T @ weights)
        expected = weights - inverse @ unit @ step
        kept = torch.ones(6, dtype=torch.bool)
        kept[list(gone)] = False
        found = repaired(weights, kept, curvature)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
        vectors = torch.linalg.cholesky(curvature - 0.01 * torch.eye(6).double()).T * 2
        found = repaired_by_vectors(weights, kept, vectors, samples=4, damping=0.01)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_with_the_moments_of_inputs_it_is_the_least_squares_fit_by_what_is_left():
    inputs, weights = draw(20, 6, seed=4), draw(6, seed=5)
    kept = torch.tensor([True, False, True, True, False, False])
    fit = torch.linalg.lstsq(inputs[:, kept], inputs @ weights).solution
    found = repaired(weights, kept, inputs.T @ inputs / 20)
    torch.testing.assert_close(found[kept], fit)
    assert not found[~kept].any()


@pytest.mark.parametrize("kept", [[True] * 6, [False] * 6])
def test_if_all_are_kept_or_none_there_is_nothing_to_make_up(curvature, kept):
    weights = draw(6, seed=6)
    torch.testing.assert_close(
        repaired(weights, torch.tensor(kept), curvature), weights * torch.tensor(kept)
    )


def test_a_singular_curvature_is_an_error_that_says_what_to_do():
    with pytest.raises(ConfigError, match="a curvature matrix of 3 weights has no inverse; raise"):
        repaired(draw(3), torch.ones(3, dtype=torch.bool), torch.zeros(3, 3))

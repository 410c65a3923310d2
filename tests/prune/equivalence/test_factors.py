"""The lasso and its relatives against other libraries, closed forms and flows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from sklearn.linear_model import Lasso

from tersor.core.errors import ConfigError
from tersor.prune.equivalence import (
    balanced_factors,
    conservation_error,
    decayed,
    gradient_flow,
    imbalance,
    lasso,
    lp_threshold,
    penalised,
    product_of,
    train_factors,
)


def regression(seed: int, samples: int = 40, width: int = 12):
    """Data of a sparse regression, and its squared loss."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, width, generator=random, dtype=torch.float64)
    truth = torch.zeros(width, dtype=torch.float64)
    truth[:3] = torch.tensor([3.0, -2.0, 1.5])
    y = x @ truth + 0.5 * torch.randn(samples, generator=random, dtype=torch.float64)
    return x, y, lambda beta: (y - x @ beta).square().sum()


def factors(seed: int, depth: int, width: int = 12):
    random = torch.Generator().manual_seed(100 + seed)
    return [torch.randn(width, generator=random, dtype=torch.float64) for _ in range(depth)]


@pytest.mark.parametrize("decay", [5.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_trained_diagonal_network_is_the_lasso_of_scikit_learn(seed, decay):
    x, y, loss = regression(seed)
    oracle = Lasso(alpha=decay / len(y), fit_intercept=False, tol=1e-14, max_iter=100_000)
    beta = torch.from_numpy(oracle.fit(x.numpy(), y.numpy()).coef_)
    net = train_factors(loss, factors(seed, 2), decay)
    torch.testing.assert_close(product_of(net), beta, rtol=0, atol=1e-6)
    least = float(penalised(loss, beta, decay))
    assert float(decayed(loss, net, decay)) == pytest.approx(least, abs=1e-6)
    assert torch.equal(product_of(net).abs() > 1e-6, beta != 0)
    assert float(imbalance(net).abs().max()) < 1e-6
    assert 0 < int((beta == 0).sum()) < len(beta)


@pytest.mark.parametrize("decay", [5.0, 20.0])
def test_the_solver_without_factors_is_that_lasso_too_with_exact_zeros(decay):
    x, y, loss = regression(3)
    oracle = Lasso(alpha=decay / len(y), fit_intercept=False, tol=1e-14, max_iter=100_000)
    beta = torch.from_numpy(oracle.fit(x.numpy(), y.numpy()).coef_)
    found = lasso(loss, torch.zeros(12, dtype=torch.float64), decay)
    torch.testing.assert_close(found, beta, rtol=0, atol=1e-9)
    assert torch.equal(found == 0, beta == 0)


def test_it_holds_for_a_loss_that_is_no_square():
    x, y, _ = regression(4)
    labels = y.sign()

    def loss(beta):
        return torch.nn.functional.softplus(-labels * (x @ beta)).sum()

    reference = lasso(loss, torch.zeros(12, dtype=torch.float64), 2.0)
    net = train_factors(loss, factors(4, 2), 2.0)
    least = float(penalised(loss, reference, 2.0))
    assert float(decayed(loss, net, 2.0)) == pytest.approx(least, abs=1e-6)
    torch.testing.assert_close(product_of(net), reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_networks_reach_the_lp_minimum_of_an_orthogonal_design(depth):
    targets = torch.tensor([3.0, -2.0, 1.2, 0.4, -0.1], dtype=torch.float64)
    decay = 0.25

    def loss(beta):
        return (targets - beta).square().sum()

    found = [train_factors(loss, factors(seed, depth, 5), decay) for seed in range(8)]
    # It is not convex: each entry has two minima, and each start finds some of the lower ones.
    each = torch.stack([(targets - product_of(f)).square() for f in found])
    each = each + decay * torch.stack([sum(u.square() for u in f) for f in found])
    expected = lp_threshold(targets, decay, depth)
    value = (targets - expected).square() + depth * decay * expected.abs().pow(2 / depth)
    torch.testing.assert_close(each.min(dim=0).values, value, rtol=0, atol=1e-6)
    assert 0 < int((expected == 0).sum()) < 5


def test_the_threshold_for_two_factors_is_the_soft_one():
    values = torch.linspace(-3, 3, 61, dtype=torch.float64)
    soft = values.sign() * (values.abs() - 0.7).clamp(min=0)
    torch.testing.assert_close(lp_threshold(values, 0.7, 2), soft, rtol=0, atol=1e-14)


def test_the_threshold_for_four_factors_is_xus_half_thresholding():
    # Xu et al. 2012, eq. 10: argmin (b - v)**2 + lam * |b|**0.5, lam = depth * decay
    lam = 4 * 0.3
    cut = 54 ** (1 / 3) / 4 * lam ** (2 / 3)
    for value in (0.2, cut - 1e-6, cut + 1e-6, 1.5, 4.0):
        expected = 0.0
        if value > cut:
            angle = math.acos(lam / 8 * (value / 3) ** -1.5)
            expected = 2 / 3 * value * (1 + math.cos(2 * math.pi / 3 - 2 / 3 * angle))
        found = lp_threshold(torch.tensor([value, -value], dtype=torch.float64), 0.3, 4)
        assert found.tolist() == pytest.approx([expected, -expected], abs=1e-12)


@given(st.floats(-4, 4), st.floats(0.01, 2), st.integers(2, 6))
def test_no_point_of_a_grid_is_below_the_threshold(value, decay, depth):
    found = float(lp_threshold(torch.tensor([value], dtype=torch.float64), decay, depth))
    grid = np.linspace(-4, 4, 4001)

    def objective(b):
        return (b - value) ** 2 + depth * decay * np.abs(b) ** (2 / depth)

    assert objective(found) <= objective(grid).min() + 1e-12


@given(st.integers(1, 6), st.lists(st.floats(-9, 9), min_size=1, max_size=5), st.integers(0, 9))
def test_balanced_factors_have_the_product_and_no_other_factors_less_decay(depth, values, seed):
    beta = torch.tensor(values, dtype=torch.float64)
    balanced = balanced_factors(beta, depth)
    torch.testing.assert_close(product_of(balanced), beta)

    def none(_):
        return torch.tensor(0.0, dtype=torch.float64)

    penalty = float(penalised(none, beta, 1.0, depth))
    assert float(decayed(none, balanced, 1.0)) == pytest.approx(penalty)
    random = torch.Generator().manual_seed(seed)
    scales = torch.rand(depth, len(values), generator=random, dtype=torch.float64) + 0.1
    scales = scales / scales.prod(dim=0) ** (1 / depth)
    others = [f * s for f, s in zip(balanced, scales, strict=True)]
    torch.testing.assert_close(product_of(others), beta)
    assert float(decayed(none, others, 1.0)) >= penalty - 1e-9


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_imbalance_decays_as_the_law_says_along_scipys_flow(decay, depth):
    _, _, loss = regression(5, samples=6, width=3)
    start = factors(5, depth, 3)

    def slope(_, flat):
        leaves = [torch.tensor(f, requires_grad=True) for f in flat.reshape(depth, 3)]
        slopes = torch.autograd.grad(decayed(loss, leaves, decay), leaves)
        return -torch.cat(slopes).numpy()

    flat = torch.cat(start).numpy()
    end = solve_ivp(slope, (0, 0.02), flat, rtol=1e-10, atol=1e-11, method="DOP853").y[:, -1]
    ours = gradient_flow(lambda f: decayed(loss, f, decay), start, time=0.02, steps=200)
    assert torch.cat(ours).numpy() == pytest.approx(end, abs=1e-8)
    expected = math.exp(-4 * decay * 0.02) * imbalance(start)
    found = imbalance([torch.from_numpy(f) for f in end.reshape(depth, 3)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert conservation_error(loss, start, decay, time=0.02, steps=200) < 1e-8
    assert conservation_error(loss, start, decay, time=0.02, steps=5) > 1e-7


def test_flow_from_equal_factors_never_makes_a_coefficient_negative():
    start = [torch.full((1,), 0.5, dtype=torch.float64)] * 2
    end = gradient_flow(
        lambda f: decayed(lambda b: (b + 1).square().sum(), f, 0.0), start, time=8.0, steps=200
    )
    assert 0 <= float(product_of(end)) < 1e-3


def test_a_start_from_which_no_gradient_leads_away_is_refused():
    start = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])]
    with pytest.raises(ConfigError, match="1 entries start with two factors of zero"):
        train_factors(lambda b: b.sum(), start, 1.0)
    with pytest.raises(ConfigError, match="decay 0; expected"):
        train_factors(lambda b: b.sum(), [torch.ones(1)], 0)
    with pytest.raises(ConfigError, match="depth 1; expected 2"):
        lp_threshold(torch.ones(1), 1.0, 1)

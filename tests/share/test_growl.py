from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import GrOWL, growl_prox, owl_prox, owl_weights

NORMS = st.lists(st.floats(0, 10), min_size=1, max_size=12)


def penalty(norms: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return norms.sort(descending=True).values @ weights


@given(NORMS, st.floats(0, 3), st.floats(0, 2))
def test_the_map_is_the_projection_that_another_library_finds(values, strength, slope):
    norms = torch.tensor(values, dtype=torch.float64)
    weights = owl_weights(len(norms), strength + 1e-3, slope)
    ordered = norms.sort(descending=True)
    found = isotonic_regression((ordered.values - weights).numpy(), increasing=False).x
    expected = torch.from_numpy(np.maximum(found, 0))
    torch.testing.assert_close(owl_prox(norms, weights)[ordered.indices], expected)


@given(NORMS, st.integers(0, 2**32))
def test_no_other_point_is_better(values, seed):
    norms = torch.tensor(values, dtype=torch.float64)
    weights = owl_weights(len(norms), 0.3, 0.4)

    def objective(x: torch.Tensor) -> float:
        return float((x - norms).square().sum() / 2 + penalty(x, weights))

    best = owl_prox(norms, weights)
    random = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1e-1, 1.0):
        other = (best + scale * torch.randn(len(norms), generator=random).double()).clamp(min=0)
        assert objective(best) <= objective(other) + 1e-12


def test_the_map_of_rows_is_the_minimum_over_all_matrices():
    torch.manual_seed(0)
    weight = torch.randn(4, 5, dtype=torch.float64)
    weights = owl_weights(5, 0.2, 0.3)

    def objective(x: torch.Tensor) -> float:
        norms = torch.linalg.vector_norm(x, dim=0)
        return float((x - weight).square().sum() / 2 + penalty(norms, weights))

    best = growl_prox(weight, weights)
    for scale in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            assert objective(best) < objective(best + scale * torch.randn_like(weight))


def test_without_slope_it_is_the_soft_threshold_of_groups():
    torch.manual_seed(0)
    weight = torch.randn(3, 6, 2, 2, dtype=torch.float64)
    norms = torch.linalg.vector_norm(weight, dim=(0, 2, 3), keepdim=True)
    expected = weight * (1 - 3.0 / norms).clamp(min=0)
    found = growl_prox(weight, owl_weights(6, 3.0, 0.0))
    torch.testing.assert_close(found, expected)
    assert 0 < int((norms < 3).sum()) < 6


@given(NORMS)
def test_the_order_of_norms_is_kept(values):
    norms = torch.tensor(values, dtype=torch.float64)
    found = owl_prox(norms, owl_weights(len(norms), 0.1, 0.2))[norms.argsort()]
    assert bool((found.diff() >= 0).all())


def test_equal_inputs_end_with_equal_rows_and_useless_ones_with_zero():
    torch.manual_seed(0)
    shared = torch.randn(256, 1, dtype=torch.float64)
    inputs = torch.cat([shared, shared, torch.randn(256, 3, dtype=torch.float64)], dim=1)
    targets = 2 * shared + inputs[:, 2:3]
    layer = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(torch.tensor([[1.5, 0.1, 0.2, 0.3, -0.3]]))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    method = GrOWL(layer, 0.05, 0.05)
    with method.attach(optimizer):
        for _ in range(500):
            optimizer.zero_grad()
            (layer(inputs) - targets).square().mean().backward()
            optimizer.step()
    weight = layer.weight.detach()[0]
    assert weight[0] == pytest.approx(float(weight[1]), rel=1e-6)
    assert float(weight[2]) > 0.5
    assert weight[3:].tolist() == [0, 0]
    assert method.report().rows == [{"name": "weight", "rows": 5, "zero": 2, "norms": 2}]


def test_the_threshold_is_strength_times_the_learning_rate_as_it_is_now():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    with GrOWL(layer, 0.4, 0.0).attach(optimizer):
        optimizer.step()
        assert layer.weight.tolist() == [[pytest.approx(0.8)] * 2]
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.step()
    assert layer.weight.tolist() == [[pytest.approx(0.7)] * 2]
    optimizer.step()
    assert layer.weight.tolist() == [[pytest.approx(0.7)] * 2]


def test_the_larger_rows_have_the_slope():
    assert owl_weights(5, 0.5, 2.0).tolist() == [8.5, 6.5, 4.5, 2.5, 0.5]
    assert owl_weights(5, 0.5, 2.0, top=0.6).tolist() == [4.5, 2.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0.0, 0.0), "strength 0.0, slope 0.0; expected 0 or more"),
        ((-1.0, 2.0), "strength -1.0"),
        ((1.0, float("inf")), "slope inf"),
        ((1.0, 1.0, 0.0), "top: 0.0; expected 0 < top <= 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    strength, slope, *top = settings
    with pytest.raises(ConfigError, match=message):
        GrOWL(nn.Linear(2, 2), strength, slope, top=top[0] if top else 1.0)


def test_what_has_no_rows_is_skipped_with_the_reason():
    model = nn.ModuleList([nn.Linear(2, 2), nn.LSTM(2, 2), nn.Conv2d(4, 4, 3, groups=2)])
    skipped = GrOWL(model, 1.0, 1.0).report().skipped
    assert skipped["1.weight_ih_l0"] == "of LSTM; expected Linear or Conv"
    assert skipped["2.weight"] == "its inputs are split among 2 groups"
    with pytest.raises(ConfigError, match="LSTM has no weight with rows"):
        GrOWL(nn.LSTM(2, 2), 1.0, 1.0)


def test_an_optimizer_of_another_model_is_refused():
    layer = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="does not have 'weight'"):
        GrOWL(layer, 1.0, 1.0).attach(torch.optim.SGD(copy.deepcopy(layer).parameters(), 0.1))

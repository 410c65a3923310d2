"""Curves, their hulls and what is made of them, against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.allocation import Groups
from tersor.prune.sensitivity import (
    Curve,
    Curves,
    by_sensitivity,
    interactions,
    lower_hull,
    sensitivity,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(2, (20,), generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(INPUTS), TARGETS).item()


def bits(model: nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("criterion", ["magnitude", "snip"])
@pytest.mark.parametrize("pattern", ["element", "row"])
def test_a_curve_is_the_loss_with_that_layer_alone_pruned(criterion, pattern):
    model, data = net(), [(INPUTS, TARGETS)]
    densities = (0.8, 0.5, 0.2)
    curves = sensitivity(
        model, loss, densities=densities, criterion=criterion, pattern=pattern, data=data
    )
    assert list(curves.layers) == ["0.weight", "2.weight", "4.weight"]
    for name, curve in curves.layers.items():
        found = dict(zip(curve.kept, curve.values, strict=True))
        assert found[curve.groups] == curves.dense == loss(model)
        for density in densities:
            alone = net()
            kept = max(1, round(density * curve.groups))
            options = {"criterion": criterion, "pattern": pattern, "data": data}
            prune_(alone, {name: kept / curve.groups}, **options)
            assert found[kept] == loss(alone)
    sizes = {n: c.groups * c.size for n, c in curves.layers.items()}
    assert sizes == {"0.weight": 30, "2.weight": 20, "4.weight": 8}


def test_weights_have_their_bits_afterwards_also_after_an_error():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before = bits(model)
    sensitivity(model, loss, densities=[0.5, 0.1])
    interactions(model, loss, 0.5)
    assert bits(model) == before
    calls = itertools.count()

    def fails(model):
        if next(calls) == 3:
            raise RuntimeError("no more memory")
        return loss(model)

    with pytest.raises(RuntimeError, match="no more memory"):
        sensitivity(model, fails, densities=[0.5, 0.1])
    assert next(calls) == 4
    assert bits(model) == before


def test_a_value_that_is_not_finite_is_named():
    with pytest.raises(ConfigError, match="evaluate: nan for the network as it is"):
        sensitivity(net(), lambda model: math.nan)
    values = iter([1.0, math.inf])
    with pytest.raises(ConfigError, match=r"inf for '0\.weight' at density 0\.5"):
        sensitivity(net(), lambda model: next(values), densities=[0.5])
    with pytest.raises(ConfigError, match="density: 2; expected 0 < density <= 1"):
        sensitivity(net(), loss, densities=[0.5, 2])


def test_a_pattern_of_n_in_m_has_a_curve_from_its_own_density_on():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(20, 8)
    curves = sensitivity(
        model,
        lambda m: m(inputs).square().mean().item(),
        densities=[0.9, 0.5, 0.25],
        pattern="2:4",
    )
    assert curves.layers["0.weight"].kept == (32, 16, 8)
    assert curves.layers["2.weight"].kept == (8, 4, 2)


points = st.lists(
    st.tuples(st.integers(0, 30), st.floats(-5, 5)),
    min_size=1,
    max_size=9,
    unique_by=lambda p: p[0],
)


@given(points)
def test_the_hull_is_the_largest_convex_function_below_the_points(points):
    hull = lower_hull(points)
    xs, ys = zip(*hull, strict=True)
    assert list(xs) == sorted(set(xs))
    assert set(hull) <= set(points)
    assert (xs[0], xs[-1]) == (min(p[0] for p in points), max(p[0] for p in points))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(hull)]
    assert all(a < b for a, b in itertools.pairwise(slopes))
    for x, y in points:
        assert np.interp(x, xs, ys) <= y + 1e-9


@st.composite
def small_curves(draw):
    """Three layers of a few groups, with any values."""
    layers = {}
    for name in "abc":
        groups = draw(st.integers(2, 6))
        inner = draw(st.sets(st.integers(1, groups - 1), min_size=1, max_size=3))
        kept = (groups, *sorted(inner, reverse=True))
        values = [draw(st.integers(0, 20)) / 4 for _ in kept]
        layers[name] = Curve(groups, 1, kept, tuple(values))
    return Curves(layers, (0.5,), {})


@given(small_curves(), st.data())
def test_the_allocation_is_the_least_sum_of_the_hulls_of_all_that_keep_as_much(curves, data):
    groups = {n: Groups.of(torch.ones(c.groups)) for n, c in curves.layers.items()}
    total = sum(c.groups for c in curves.layers.values())
    fewest = sum(c.kept[-1] for c in curves.layers.values())
    budget = data.draw(st.integers(fewest, total))

    def of(counts):
        return sum(
            np.interp(counts[n], *zip(*c.hull(), strict=True)) for n, c in curves.layers.items()
        )

    ranges = [range(c.kept[-1], c.groups + 1) for c in curves.layers.values()]
    options = [dict(zip("abc", c, strict=True)) for c in itertools.product(*ranges)]
    least = min(of(o) for o in options if sum(o.values()) == budget)
    counts = by_sensitivity(curves)(groups, budget / total)
    assert sum(counts.values()) == budget
    assert of(counts) == pytest.approx(least, abs=1e-9)


def test_prune_takes_the_allocation_and_keeps_exactly_the_target():
    model = net()
    curves = sensitivity(model, loss, densities=(0.7, 0.5, 0.3, 0.1))
    for density in (0.9, 0.52, 0.31):
        pruned = net()
        masks, _ = prune_(pruned, density, allocation=by_sensitivity(curves))
        assert masks.kept == round(density * 58)
    rows = sensitivity(model, loss, densities=(0.7, 0.3), pattern="row")
    masks, _ = prune_(net(), 0.6, pattern="row", allocation=by_sensitivity(rows))
    assert round(0.6 * 58) - 6 < masks.kept <= round(0.6 * 58)


def test_what_was_not_measured_is_not_allocated():
    curves = sensitivity(net(), loss, densities=(0.5, 0.3))
    with pytest.raises(
        ConfigError, match=r"density 0\.1 is below what was measured, at least 0\.29"
    ):
        prune_(net(), 0.1, allocation=by_sensitivity(curves))
    other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    with pytest.raises(ConfigError, match=r"'0.weight' has 36 groups of 1 .*0\.weight \(30 of 1\)"):
        prune_(other, 0.5, allocation=by_sensitivity(curves))


def test_interactions_are_what_two_layers_do_beyond_their_sum():
    model = net()
    report = interactions(model, loss, 0.4)
    assert [(r["first"], r["second"]) for r in report.rows] == [
        ("0.weight", "2.weight"),
        ("0.weight", "4.weight"),
        ("2.weight", "4.weight"),
    ]

    def rise(*names):
        other = net()
        prune_(other, dict.fromkeys(names, 0.4))
        return loss(other) - loss(model)

    for row in report.rows:
        i, j = row["first"], row["second"]
        assert row["both"] == pytest.approx(rise(i, j), abs=1e-7)
        expected = rise(i, j) - rise(i) - rise(j)
        assert row["interaction"] == pytest.approx(expected, abs=1e-7)


def test_layers_that_add_up_do_not_interact():
    class TwoPaths(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = nn.Linear(4, 1), nn.Linear(4, 1)

    model = TwoPaths()
    report = interactions(model, lambda m: (m.left.weight.sum() + m.right.weight.sum()).item(), 0.5)
    assert report.rows[0]["interaction"] == pytest.approx(0, abs=1e-6)
    assert abs(report.rows[0]["both"]) > 0.1


def test_the_report_has_a_row_a_layer_and_a_column_a_density():
    curves = sensitivity(net(), loss, densities=(0.2, 0.8), ignore="4")
    report = curves.report()
    assert report.summary == {"nothing pruned": curves.dense}
    assert [list(row) for row in report.rows] == [["name", "weights", "at 0.8", "at 0.2"]] * 2
    assert report.rows[1]["at 0.2"] == curves.layers["2.weight"].values[2]
    assert report.skipped["4.weight"] == "ignored"

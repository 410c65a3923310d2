import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize import ROUNDINGS, DynamicFixedPoint, FixedPoint

numbers = st.floats(-1e6, 1e6, width=32)


@given(st.integers(1, 8), st.integers(0, 12), st.lists(numbers, min_size=1, max_size=20))
def test_fixed_point_is_the_nearest_multiple_in_its_range(before, behind, values):
    new = FixedPoint(before, behind)(torch.tensor([values]))[0]
    low, high = -(2.0 ** (before - 1)), 2.0 ** (before - 1) - 2.0**-behind
    for old, found in zip(values, new.tolist(), strict=True):
        assert found == min(max(round(old * 2**behind) / 2**behind, low), high)


def test_stochastic_rounding_into_fixed_point_is_right_on_average():
    weight = torch.full((1, 100_000), 0.3)
    grid = FixedPoint(2, 2).fit(weight)
    draw = torch.Generator().manual_seed(0)
    new = grid.round(weight, lambda x, generator=None: ROUNDINGS["stochastic"](x, draw))
    assert set(new.unique().tolist()) == {0.25, 0.5}
    assert abs(new.mean() - 0.3) < 4 * 0.25 * math.sqrt(0.2 * 0.8 / 100_000)


@given(
    st.integers(2, 16),
    st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=12),
    st.integers(-40, 40),
)
def test_dynamic_fixed_point_has_the_exponent_of_the_largest(bits, values, shift):
    weight = torch.tensor([values], dtype=torch.float64) * 2.0**shift
    grid = DynamicFixedPoint(bits).fit(weight)
    new = grid.round(weight)
    top = max(map(abs, values)) * 2.0**shift
    if top == 0:
        assert (new == 0).all()
        return
    exponent = math.floor(math.log2(top)) - (bits - 2)
    assert grid.exponent.item() == exponent
    codes = new / 2.0**exponent
    assert (codes == codes.round()).all()
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1
    # Half a step off; a whole one where the largest positive number is rounded beyond the end.
    off = 0.5 if codes.max() < 2 ** (bits - 1) - 1 else 1
    assert (new - weight).abs().max() <= 2.0**exponent * off


def test_powers_of_two_are_exact():
    weight = torch.tensor([[8.0, 4.0, -2.0, 1.0, 0.5]])
    assert torch.equal(DynamicFixedPoint(6)(weight), weight)


@given(st.lists(numbers, min_size=1, max_size=30), st.floats(0, 0.9))
def test_no_more_overflow_than_allowed_and_no_smaller_exponent_would_do(values, overflow):
    weight = torch.tensor([values], dtype=torch.float64)
    exponent = DynamicFixedPoint(8, overflow).fit(weight).exponent.item()

    def too_large(e):
        return int((weight.abs() >= 2.0 ** (7 + e)).sum())

    allowed = overflow * len(values)
    if int((weight != 0).sum()) > allowed:  # else any exponent would do
        assert too_large(exponent) <= allowed < too_large(exponent - 1)


def test_each_group_has_its_exponent_and_the_kept_alone_decide():
    weight = torch.tensor([[1.0, 100.0], [0.01, 0.001]])
    kept = torch.tensor([[True, False], [True, True]])
    grid = DynamicFixedPoint(8, granularity="channel").fit(weight, kept)
    assert grid.exponent.flatten().tolist() == [-6, -13]
    assert DynamicFixedPoint(8, granularity="channel")(weight, kept)[0].tolist() == [1.0, 0.0]


def test_the_largest_numbers_of_float32_do_not_overflow():
    most = torch.finfo(torch.float32).max
    for bits in (2, 8, 24):
        new = DynamicFixedPoint(bits)(torch.tensor([[most, -most, 1e-45]]))
        assert torch.isfinite(new).all()
    assert torch.isfinite(DynamicFixedPoint(8)(torch.tensor([[1e-45, -1e-45]]))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedPoint(0, 3), "integer_bits: 0; expected a whole number from 1 up"),
        (lambda: FixedPoint(2, -1), "fraction_bits: -1; expected a whole number from 0 up"),
        (lambda: FixedPoint(12, 13), "25 bits in all; expected at most 24"),
        (lambda: DynamicFixedPoint(1), "bits: 1; expected a whole number from 2 to 24"),
        (lambda: DynamicFixedPoint(8, 1.0), "overflow: 1.0; expected 0 <= overflow < 1"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

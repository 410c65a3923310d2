import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize import ROUNDINGS, Affine
from tersor.quantize.affine import MAX_BITS

GRANULARITIES = ("tensor", "channel", "group")
SETTINGS = [
    Affine(bits, granularity, 5, symmetric)
    for bits, granularity, symmetric in itertools.product(
        (2, 3, 4, 8, 16), GRANULARITIES, (True, False)
    )
] + [Affine(1, granularity, 5, False) for granularity in GRANULARITIES]
every_setting = pytest.mark.parametrize("affine", SETTINGS, ids=repr)

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def values_of(low: float, high: float, bits: int, symmetric: bool) -> list[float]:
    """The grid of one group by its definition, in Python's floats."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        n = 2 ** (bits - 1) - 1
        return [max(-low, high) / n * q for q in range(-n, n + 1)]
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    return [scale * (q - zero) for q in range(2**bits)]


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_each_entry_takes_the_nearest_value_of_its_groups_grid(bits, symmetric, granularity):
    if symmetric and bits == 1:
        return
    weight = normal(3, 4, 3, dtype=torch.float64)
    new = Affine(bits, granularity, 5, symmetric)(weight)
    rows = weight.flatten(1).tolist()
    groups = {
        "tensor": [weight.flatten().tolist()],
        "channel": rows,
        "group": [row[i : i + 5] for row in rows for i in (0, 5, 10)],
    }[granularity]
    expected = []
    for group in groups:
        grid = values_of(min(group), max(group), bits, symmetric)
        expected += [min(grid, key=lambda v: abs(v - x)) for x in group]
    torch.testing.assert_close(
        new.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


@every_setting
@given(data=st.data())
def test_rounding_is_idempotent_bounded_and_monotone_and_integers_say_the_same(affine, data):
    values = data.draw(st.lists(numbers, min_size=12, max_size=12))
    weight = torch.tensor(values).view(2, 6)
    grid = affine.fit(weight)
    new = grid.round(weight)
    assert torch.isfinite(new).all()
    assert torch.equal(grid.round(new).view(torch.int32), new.view(torch.int32))
    assert not new[new == 0].signbit().any()
    integers = grid.integers(weight)
    assert integers.min() >= grid.levels.low
    assert integers.max() <= grid.levels.high
    assert torch.equal(grid.decode(integers).view(torch.int32), new.view(torch.int32))
    low, high = grid.bounds()
    assert ((new >= low) & (new <= high)).all()
    slack = weight.double().abs() * 2**-22  # float32 itself
    step = grid.blocks.spread(grid.scale).double()
    offset = 0.5 if affine.symmetric else 1.0  # the zero point is rounded, too
    assert ((new.double() - weight.double()).abs() <= offset * step + slack).all()
    assert (grid.round(torch.zeros(2, 6)) == 0).all()
    rising = torch.tensor(sorted(values)).view(12, 1, 1).expand(12, 2, 6)
    rounded = torch.stack([grid.round(x) for x in rising])
    assert (rounded.diff(dim=0) >= 0).all()


@every_setting
def test_no_group_takes_more_than_two_to_the_bits_values(affine):
    weight = normal(4, 15) * torch.tensor([[1.0], [10.0], [0.0], [1e-3]])
    grid = affine.fit(weight)
    for group in grid.blocks.split(grid.round(weight)).flatten(0, 1):
        assert len(group.unique()) <= 2**affine.bits


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_extremes_of_a_symmetric_grid_come_back(granularity):
    weight = normal(6, 20)
    new = Affine(8, granularity, 5)(weight)
    blocks = Affine(8, granularity, 5).fit(weight).blocks
    old, kept = (blocks.split(t).abs().amax(dim=-1) for t in (weight, new))
    torch.testing.assert_close(old, kept, rtol=1e-6, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_fake_quantizes_to_the_same_values(symmetric):
    weight = normal(16, 33)
    grid = Affine(8, "channel", symmetric=symmetric).fit(weight)
    theirs = torch.fake_quantize_per_channel_affine(
        weight, grid.scale[:, 0], grid.zero_point[:, 0], 0, grid.levels.low, grid.levels.high
    )
    # They multiply by the reciprocal of the scale: what lies half-way may go to the other side.
    same = theirs == grid.round(weight)
    halves = (weight / grid.scale).frac().abs() - 0.5
    assert (same | (halves.abs() < 1e-4)).all()
    assert same.float().mean() > 0.99


def test_the_error_of_uniform_weights_is_a_twelfth_of_the_squared_step():
    weight = torch.rand(100_000, generator=torch.Generator().manual_seed(0))[None] * 2 - 1
    grid = Affine(5).fit(weight)
    error = (grid.round(weight) - weight).square().mean()
    assert math.isclose(error, float(grid.scale.square()) / 12, rel_tol=0.02)


def test_finer_groups_err_less():
    weight = normal(8, 64) * torch.logspace(-2, 0, 8)[:, None]
    tensor, channel, group = (
        (Affine(4, kind, 8)(weight) - weight).square().mean() for kind in GRANULARITIES
    )
    assert group < channel < tensor


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_one_group_is_the_whole_tensor(granularity):
    weight = normal(1, 30)
    assert torch.equal(Affine(4, granularity)(weight), Affine(4, "tensor")(weight))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_entries_that_are_not_kept_have_no_say_and_come_back_as_zero(granularity, symmetric):
    affine = Affine(4, granularity, 5, symmetric, range="percentile")
    weight, kept = normal(4, 3, 4), torch.rand(4, 3, 4) < 0.6
    other = torch.where(kept, weight, 1e6)
    new = affine(weight, kept)
    assert torch.equal(affine(other, kept).view(torch.int32), new.view(torch.int32))
    assert (new[~kept].view(torch.int32) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_types_are_rounded_to_them_at_the_end(dtype):
    weight = normal(4, 30, dtype=dtype)
    new = Affine(8)(weight)
    assert new.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(new, Affine(8)(weight.float()).to(dtype))
    assert torch.equal(Affine(8).fit(weight).round(new), new)


def test_rows_of_zeros_stay_zero_and_the_smallest_numbers_do_no_harm():
    weight = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [3.4028234e38, -3.4028234e38]])
    for affine in SETTINGS:
        new = affine(weight)
        assert torch.isfinite(new).all()
        assert (new[0] == 0).all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_columns_of_a_grid_round_as_the_whole_does(granularity, symmetric):
    weight = normal(4, 3, 4)
    grid = Affine(3, granularity, 5, symmetric).fit(weight)
    flat = weight.flatten(1)
    parts = [grid.columns(i, j).round(flat[:, i:j]) for i, j in ((0, 1), (1, 7), (7, 12))]
    assert torch.equal(torch.cat(parts, dim=1), grid.round(weight).flatten(1))


def test_another_rounding_takes_the_grid_points_on_either_side():
    weight = normal(4, 50)
    grid = Affine(3).fit(weight)
    down = grid.round(weight, ROUNDINGS["floor"])
    assert (down <= weight + 1e-5).all()
    assert (down > weight - grid.scale - 1e-5).all()
    assert not torch.equal(down, grid.round(weight))


@pytest.mark.parametrize("bits", [0, 1, MAX_BITS + 1, 2.0, True, "8"])
def test_bits_out_of_range_are_named(bits):
    with pytest.raises(ConfigError, match=rf"bits: {bits!r}; .* 2 to {MAX_BITS} for a sym"):
        Affine(bits)


def test_an_unknown_range_is_answered_with_a_near_miss():
    with pytest.raises(ConfigError, match="range 'minmx': did you mean 'minmax'"):
        Affine(range="minmx")


def test_what_lies_beyond_the_range_goes_to_its_ends():
    grid = Affine(4, "tensor").fit(torch.tensor([[-3.5, 7.0]]))
    assert grid.round(torch.tensor([[-1e9, 1e9]])).tolist() == [[-7.0, 7.0]]
    assert [end.item() for end in grid.bounds()] == [-7.0, 7.0]
    grid = Affine(2, "tensor", symmetric=False).fit(torch.tensor([[-1.0, 2.0]]))
    assert grid.round(torch.tensor([[-1e9, 1e9]])).tolist() == [[-1.0, 2.0]]
    assert [end.item() for end in grid.bounds()] == [-1.0, 2.0]


def test_a_range_that_does_not_hold_zero_is_widened():
    weight = torch.linspace(100, 101, 50)[None]
    grid = Affine(8, "tensor", symmetric=False, range="percentile").fit(weight)
    assert grid.bounds()[0] == 0
    assert ((grid.round(weight) - weight).abs() <= grid.scale / 2 + 1e-4).all()
    assert grid.round(torch.zeros(1, 50)).eq(0).all()

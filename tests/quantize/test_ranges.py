import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from tersor.core.errors import ConfigError
from tersor.quantize import ACIQ, KL, MSE, RANGES, Affine, MinMax, Percentile, ranges
from tersor.quantize.levels import Levels
from tersor.quantize.ranges import Entries, kl_threshold, laplace_clipping, normal_clipping

every_range = pytest.mark.parametrize("name", RANGES)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def error(affine: Affine, weight: torch.Tensor, importance: torch.Tensor | None = None) -> float:
    gap = (affine(weight, None, importance) - weight).double().square()
    return float((gap if importance is None else gap * importance).sum())


@every_range
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_do_not_see_each_other_and_no_range_goes_beyond_the_values(name, symmetric):
    values = normal(6, 40) * torch.logspace(-3, 3, 6)[:, None] + 0.3
    levels = Levels(4, symmetric)
    low, high = RANGES[name](Entries(values), levels)
    assert (high <= values.abs().amax(dim=1) * 1.00001).all()
    assert (low >= -values.abs().amax(dim=1) * 1.00001).all()
    for index in range(6):
        one = RANGES[name](Entries(values[index : index + 1]), levels)
        torch.testing.assert_close(one, (low[index : index + 1], high[index : index + 1]))


@every_range
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_not_kept_has_no_say(name, symmetric):
    values, levels = normal(5, 60), Levels(4, symmetric)
    kept = torch.rand(5, 60, generator=torch.Generator().manual_seed(1)) < 0.5
    kept[4] = False
    masked = RANGES[name](Entries(torch.where(kept, values, 0.0), kept), levels)
    for index in range(4):
        alone = RANGES[name](Entries(values[index][kept[index]][None]), levels)
        expected = [end[index : index + 1] for end in masked]
        torch.testing.assert_close(list(alone), expected)
    assert masked[0][4] == masked[1][4] == 0


@every_range
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [1e-45, 1e-40, 3.4e38])
def test_the_smallest_and_the_largest_numbers_do_no_harm(name, symmetric, size):
    values = torch.tensor([[size, -size, 0.0, size], [size, size, size, size]])
    low, high = RANGES[name](Entries(values), Levels(4, symmetric))
    assert low.dtype == high.dtype == torch.float32
    assert torch.isfinite(low).all()
    assert torch.isfinite(high).all()
    new = Affine(4, symmetric=symmetric, range=name)(values)
    assert torch.isfinite(new).all()


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
    st.booleans(),
)
def test_a_percentile_is_the_least_value_that_holds_the_share(numbers, share, symmetric):
    x = torch.tensor(numbers, dtype=torch.float64)[None]
    low, high = Percentile(share)(Entries(x), Levels(8, symmetric))

    def least(values, part):
        return next(
            v for v in sorted(values) if sum(u <= v for u in values) >= part * len(values) - 1e-6
        )

    if symmetric:
        assert high == -low == least([abs(n) for n in numbers], share)
    else:
        tail = 1 - (1 - share) / 2
        assert (low, high) == (-least([-n for n in numbers], tail), least(numbers, tail))


def test_a_share_that_is_a_whole_number_of_values_is_taken_exactly():
    values = torch.arange(1.0, 101)[None]
    assert 0.07 * 100 > 7  # in floating point
    assert Percentile(0.07)(Entries(values), Levels(8, True))[1] == 7


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_the_search_for_the_least_squared_error_finds_what_brute_force_finds(
    bits, symmetric, tails
):
    weight = normal(3, 500) + 0.2
    weight = weight if tails == "normal" else weight**5
    levels = Levels(bits, symmetric)
    for row in weight:
        top, bottom = float(row.max().clamp(min=0)), float(row.min().clamp(max=0))
        ends = torch.linspace(0.01, 1, 100)
        if symmetric:
            reach = max(top, -bottom) * torch.linspace(0.01, 1, 1000)
            lows, highs = -reach, reach
        else:
            lows = (bottom * ends)[:, None].expand(100, 100).flatten()
            highs = (top * ends)[None].expand(100, 100).flatten()
        scale, zero = levels.parameters(lows, highs)
        best = math.inf
        for part in torch.arange(len(scale)).split(1000):
            s, z = scale[part, None], zero[part, None]
            q = ((row / s).round() + z).clamp(levels.low, levels.high)
            best = min(best, float((s * (q - z) - row).square().sum(dim=1).min()))
        found = error(Affine(bits, symmetric=symmetric, range="mse"), row[None])
        assert found <= best * 1.05


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_search_is_never_worse_than_the_whole_range(bits, symmetric):
    weight = normal(20, 64) ** 3
    for row in weight:
        found, whole = (
            error(Affine(bits, symmetric=symmetric, range=name), row[None])
            for name in ("mse", "minmax")
        )
        assert found <= whole * (1 + 1e-6)


def test_large_groups_are_searched_in_parts_with_the_same_result(monkeypatch):
    weight = normal(3, 700)
    whole = MSE()(Entries(weight), Levels(4, True))
    monkeypatch.setattr(ranges, "_CHUNK", 100)
    torch.testing.assert_close(MSE()(Entries(weight), Levels(4, True)), whole)


def test_importance_moves_the_range_to_where_errors_matter():
    weight = torch.cat([normal(1, 2000), torch.full((1, 1), 20.0)], dim=1)
    matters = torch.ones(1, 2001)
    matters[0, -1] = 1e4
    affine = Affine(3, range="mse")
    assert float(affine(weight)[0, -1]) < 10
    assert float(affine(weight, None, matters)[0, -1]) > 19
    assert error(affine, weight, matters) < float(
        ((affine(weight) - weight).square() * matters).sum()
    )


def kl_by_definition(counts: list[int], levels: int) -> int:
    """Migacz's loop over bins, word by word."""
    best, least = len(counts), math.inf
    for i in range(levels, len(counts) + 1):
        p = list(map(float, counts[:i]))
        p[-1] += sum(counts[i:])
        q = [0.0] * i
        for level in range(levels):
            begin, end = level * i // levels, (level + 1) * i // levels
            filled = [k for k in range(begin, end) if counts[k] > 0]
            for k in filled:
                q[k] = sum(counts[begin:end]) / len(filled)
        divergence = 0.0
        for x, y in zip(p, q, strict=True):
            if x > 0:
                divergence += math.inf if y == 0 else x / sum(p) * math.log(x / sum(p) * sum(q) / y)
        if divergence <= least + 1e-9:
            best, least = i, min(least, divergence)
    return best


@given(st.lists(st.integers(0, 30), min_size=24, max_size=24), st.sampled_from([1, 2, 4, 8]))
def test_the_threshold_has_the_least_divergence(counts, levels):
    if not sum(counts):
        return
    found = kl_threshold(torch.tensor([counts, counts[::-1]]), levels)
    assert found.tolist() == [
        kl_by_definition(counts, levels),
        kl_by_definition(counts[::-1], levels),
    ]


def test_kl_clips_no_uniform_values_and_an_outlier_barely_moves_it():
    uniform = torch.linspace(-1, 1, 40_001)[None]
    low, high = KL()(Entries(uniform), Levels(8, True))
    assert (low, high) == (-1, 1)
    values = normal(1, 100_000)
    more = torch.cat([values, values.abs().max().view(1, 1) * 10], dim=1)
    before, after = (float(KL()(Entries(v), Levels(8, True))[1]) for v in (values, more))
    assert after < 1.2 * before
    assert MinMax()(Entries(more), Levels(8, True))[1] > 9 * values.max()


def test_the_clipping_constants_are_the_published_ones_and_the_minima_of_the_error():
    published = {2: (2.83, 1.71), 3: (3.90, 2.15), 4: (5.03, 2.56)}
    for bits in range(1, 9):
        steps = 3 * 4.0**bits

        def laplace(a, steps=steps):
            return 2 * math.exp(-a) + a * a / steps

        def gauss(a, steps=steps):
            tail = (1 + a * a) * special.erfc(a / math.sqrt(2))
            return tail - math.sqrt(2 / math.pi) * a * math.exp(-a * a / 2) + a * a / steps

        for found, function in ((laplace_clipping(bits), laplace), (normal_clipping(bits), gauss)):
            best = optimize.minimize_scalar(function, bounds=(0, 20), options={"xatol": 1e-9})
            assert math.isclose(found, best.x, abs_tol=1e-5)
        if bits in published:
            assert abs(laplace_clipping(bits) - published[bits][0]) < 0.005
            assert abs(normal_clipping(bits) - published[bits][1]) < 0.005


def test_aciq_takes_the_distribution_that_fits():
    draw = torch.Generator().manual_seed(0)
    gauss = torch.randn(1, 100_000, generator=draw) * 2
    laplace = gauss.new_empty(1, 100_000).exponential_(1 / 3, generator=draw)
    laplace *= torch.randint(0, 2, (1, 100_000), generator=draw) * 2 - 1
    for shift, symmetric in ((0.0, True), (0.5, False)):
        low, high = ACIQ()(Entries(gauss + shift), Levels(4, symmetric))
        assert math.isclose((high - low) / 2, 2 * 2.56, rel_tol=0.01)
        assert abs((high + low) / 2 - shift) < 0.05
        low, high = ACIQ()(Entries(laplace + shift), Levels(4, symmetric))
        assert math.isclose((high - low) / 2, 3 * 5.03, rel_tol=0.01)


def test_aciq_beats_the_whole_range_on_normal_weights_at_four_bits():
    weight = normal(1, 100_000)
    aciq, whole = (error(Affine(4, range=name), weight) for name in ("aciq", "minmax"))
    assert aciq < 0.7 * whole


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(ConfigError, match=f"percentile: share {share}; expected 0 < share <= 1"):
        Percentile(share)

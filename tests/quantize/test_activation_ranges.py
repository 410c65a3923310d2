import itertools

import numpy as np
import pytest
import torch
from scipy import optimize

from tersor.core.errors import ConfigError
from tersor.quantize.activation_ranges import ACTIVATION_RANGES, aciq, kl, mse, percentile
from tersor.quantize.levels import Levels
from tersor.quantize.observers import BINS, Observer

SIGNED, AFFINE = Levels(8, symmetric=True), Levels(8, symmetric=False)


def seen(values, **settings):
    observer = Observer(sample=None, **settings)
    observer.update(values)
    return observer


def normal(count=20_000, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def error(values, levels, low, high):
    """The squared error, rounded the slow way."""
    scale, zero = levels.parameters(torch.tensor(low).double(), torch.tensor(high).double())
    codes = ((values.double() / scale).round() + zero).clamp(levels.low, levels.high)
    return float(((codes - zero) * scale - values).square().sum())


@pytest.mark.parametrize("name", ACTIVATION_RANGES)
@pytest.mark.parametrize("levels", [SIGNED, AFFINE, Levels(2, True), Levels(1, False)])
@pytest.mark.parametrize(
    "values",
    [
        normal(),
        normal().relu(),
        -normal().relu(),
        torch.zeros(5),
        torch.tensor([3.0]),
        normal() + 9,
    ],
    ids=["normal", "relu", "negative", "zeros", "one", "far"],
)
def test_a_range_lies_within_what_was_seen(name, levels, values):
    observer = seen(values)
    low, high = ACTIVATION_RANGES[name](observer, levels)
    assert min(observer.low, 0) <= low <= high <= max(observer.high, 0)


@pytest.mark.parametrize("share", [0.9, 0.999, 1.0])
def test_percentiles_are_those_of_numpy_but_for_a_bin(share):
    values = normal()
    observer = seen(values)
    low, high = percentile(observer, AFFINE, share=share)
    each = (1 - share) / 2
    exact = np.quantile(values.numpy(), [each, 1 - each], method="inverted_cdf")
    assert np.abs(np.array([low, high]) - exact).max() <= observer.width
    low, high = percentile(observer, SIGNED, share=share)
    exact = np.quantile(values.abs().numpy(), share, method="inverted_cdf")
    assert abs(high - min(exact, observer.high)) <= observer.width
    assert abs(low - max(-exact, observer.low)) <= observer.width


def test_zeros_count_among_the_percentiles():
    values = torch.cat([torch.zeros(900), torch.linspace(0.01, 1, 100)])
    _, high = percentile(seen(values), AFFINE, share=0.9)  # 95 % lie below
    assert abs(high - 0.5) < 0.02
    assert percentile(seen(values), AFFINE, share=0.5) == (0.0, 0.0)
    with pytest.raises(ConfigError, match="share 0; expected"):
        percentile(seen(values), AFFINE, share=0)


@pytest.mark.parametrize("levels", [Levels(3, True), Levels(4, False), AFFINE])
def test_the_least_squared_error_is_that_of_a_search_over_the_values(levels):
    values = normal() ** 3
    low, high = mse(seen(values), levels)
    least, most = float(values.min()), float(values.max())
    tried = [error(values, levels, least * k / 400, most * k / 400) for k in range(1, 401)]
    assert error(values, levels, low, high) <= 1.02 * min(tried)
    assert levels.bits == 8 or error(values, levels, low, high) < 0.7 * tried[-1]


def slow_kl(counts, positive):
    """Migacz's loop, word for word, for a histogram of absolute values."""
    best, least = len(counts), np.inf
    for i in range(positive, len(counts) + 1):
        p = counts[:i].astype(float)
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        edges = np.arange(positive + 1) * i // positive
        for start, stop in itertools.pairwise(edges):
            filled = p[start:stop] > 0
            if filled.any():
                q[start:stop][filled] = counts[start:stop].sum() / filled.sum()
        if q.sum() == 0 or (q[p > 0] == 0).any():
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
        if divergence < least - 1e-12:
            best, least = i, divergence
    return best


@pytest.mark.parametrize("levels", [SIGNED, Levels(6, True), Levels(5, False)])
@pytest.mark.parametrize("values", [normal(3000), normal(3000) ** 3, normal(3000).relu() ** 2])
def test_kl_keeps_as_many_bins_as_the_published_loop(levels, values):
    observer = seen(values)
    counts = observer.counts[BINS:] + observer.counts[:BINS].flip(0)
    one_sided = not levels.symmetric and observer.low >= 0
    positive = 2**levels.bits if one_sided else 2 ** (levels.bits - 1)
    kept = slow_kl(counts.numpy(), positive)
    reach = (kept + 0.5) * observer.width if kept < BINS else np.inf
    low, high = kl(observer, levels)
    assert high == min(observer.high, reach)
    assert low == max(observer.low, -reach)


def test_one_outlier_moves_kl_little_and_the_extremes_tenfold():
    values = normal(50_000)
    more = torch.cat([values, values.max().reshape(1) * 10])
    before, after = (kl(seen(v), SIGNED)[1] for v in (values, more))
    assert after < 1.3 * before
    assert seen(more).high == pytest.approx(10 * seen(values).high)


def test_kl_clips_nothing_of_even_values():
    values = torch.linspace(-1, 1, 2**16)
    assert kl(seen(values), SIGNED)[1] > 0.98


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_aciq_is_the_minimum_of_its_formula(bits):
    laplace = torch.distributions.Laplace(0.0, 2.0).icdf(torch.linspace(1e-5, 1 - 1e-5, 100_000))
    mean = laplace.abs().mean()
    found = optimize.minimize_scalar(
        lambda a: 2 * np.exp(-a) + a * a / (3 * 4.0**bits), bounds=(0, 40), method="bounded"
    )
    high = aciq(seen(laplace), Levels(bits, True))[1]
    assert high == pytest.approx(min(found.x * float(mean), float(laplace.max())), rel=0.01)
    # One half of it needs one bit less for the same step.
    half = aciq(seen(laplace.abs()), Levels(bits - 1, False))[1]
    assert half == pytest.approx(high, rel=0.01)


def test_aciq_has_less_error_than_the_extremes_on_four_bits():
    values, levels = normal(), Levels(4, False)
    low, high = aciq(seen(values), levels)
    assert error(values, levels, low, high) < 0.8 * error(
        values, levels, float(values.min()), float(values.max())
    )

"""Binary, ternary, powers of two, DoReFa and sums of signs against brute force and definitions."""

import itertools

import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.quantize import (
    Binary,
    DoReFa,
    MultiBinary,
    PowerOfTwo,
    QuantizedGradients,
    Ternary,
    quantize_gradient,
)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def weighted_error(weight, value, importance):
    return float((importance * (weight - value).square()).sum())


@pytest.mark.parametrize("seed", range(5))
def test_no_scale_is_better_than_that_of_binary(seed):
    weight, importance = draws(1, 7, seed=seed), draws(1, 7, seed=seed + 50).square()
    found = Binary()(weight, importance=importance)
    error = weighted_error(weight, found, importance)
    for scale in torch.linspace(0.01, 3, 600, dtype=torch.double):
        assert error <= weighted_error(weight, scale * weight.sign(), importance) + 1e-12


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weighted", [False, True])
def test_exact_ternary_is_the_best_of_all_signs(seed, weighted):
    weight = draws(1, 6, seed=seed)
    importance = draws(1, 6, seed=seed + 50).square() if weighted else torch.ones_like(weight)
    best = float("inf")
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=6):
        code = torch.tensor([signs], dtype=torch.double)
        norm = (importance * code.square()).sum()
        scale = (importance * code * weight).sum() / norm if norm > 0 else 0.0
        best = min(best, weighted_error(weight, scale * code, importance))
    found = Ternary(method="exact")(weight, importance=importance)
    assert weighted_error(weight, found, importance) == pytest.approx(best, abs=1e-12)


def test_the_best_threshold_of_many_weights_is_what_theory_says():
    for weight, expected in ((draws(1, 200_000), 0.77), (torch.rand(1, 200_000) - 0.5, 2 / 3)):
        grid = Ternary(method="exact").fit(weight.double())
        share = float(grid.threshold / weight.abs().double().mean())
        assert share == pytest.approx(expected, abs=0.02)


def test_ternary_by_rule_and_by_channel():
    weight = torch.tensor([[1.0, -1.0, 0.1, 4.0], [10.0, -10.0, 1.0, 40.0]])
    grid = Ternary("channel").fit(weight)
    # mean |w| = 1.525; threshold 1.0675: the 4 alone
    torch.testing.assert_close(grid.threshold.flatten(), torch.tensor([1.0675, 10.675]))
    assert grid.scale.flatten().tolist() == [4.0, 40.0]


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_powers_are_the_nearest_of_the_published_set(bits):
    weight = draws(1, 500)
    largest = float(weight.abs().max())
    high = next(e for e in range(20, -20, -1) if 4 * largest / 3 >= 2.0**e)
    values = [0.0] + [
        s * 2.0**e for e in range(high + 1 - 2 ** (bits - 2), high + 1) for s in (1, -1)
    ]
    table = torch.tensor(values, dtype=torch.double)
    nearest = table[(weight.reshape(-1, 1) - table).abs().argmin(1)]
    assert torch.equal(PowerOfTwo(bits)(weight).flatten(), nearest)


def test_half_way_powers_go_up():
    weight = torch.tensor([[1.0, 0.75, -0.375, 0.74999]])
    assert PowerOfTwo(5)(weight).tolist() == [[1.0, 1.0, -0.5, 0.5]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_sums_of_signs_are_the_least_squares_of_the_paper(bits):
    weight = draws(1, 300) + 0.1
    centred = weight - weight.mean()
    shifts = torch.linspace(-1, 1, bits) if bits > 1 else torch.zeros(1)
    planes = [(centred + u * weight.std(correction=0)).sign().flatten() for u in shifts]
    basis = torch.stack(planes, 1)
    paper = basis @ torch.linalg.lstsq(basis, weight.reshape(-1, 1)).solution
    found = MultiBinary(bits).fit(weight).levels[0]
    torch.testing.assert_close(found, paper.unique(), rtol=1e-9, atol=1e-9)


def test_more_signs_leave_less():
    weight = draws(4, 100)
    errors = [float((MultiBinary(b)(weight) - weight).square().sum()) for b in (1, 2, 3, 5, 8)]
    assert errors == sorted(errors, reverse=True)


def test_dorefa_is_its_formula():
    weight = draws(3, 5)
    squeezed = weight.tanh() / (2 * weight.tanh().abs().max()) + 0.5
    torch.testing.assert_close(DoReFa(3)(weight), 2 * (squeezed * 7).round() / 7 - 1)
    torch.testing.assert_close(DoReFa(1)(weight), weight.sign() * weight.abs().mean())


def test_quantized_gradients_are_right_on_average():
    gradient = draws(2, 6)
    generator = torch.Generator().manual_seed(1)
    found = torch.stack([quantize_gradient(gradient, 2, generator) for _ in range(20_000)])
    step = 2 * gradient.abs().amax(1, keepdim=True) / 3
    assert bool(((found.mean(0) - gradient).abs() < 4 * step / 2 / 20_000**0.5).all())
    assert all(len(found[:, row].unique().mul(1e6).round().unique()) <= 4 for row in range(2))


def test_gradients_of_layers_are_quantized_only_inside():
    layer = torch.nn.Linear(4, 3)
    x = torch.eye(4)
    factors = torch.linspace(0.1, 1, 12).view(4, 3)
    with QuantizedGradients(layer, bits=1):
        (layer(x) * factors).sum().backward()
    assert len(layer.weight.grad.abs().unique()) == 4  # one size a sample
    layer.weight.grad = None
    (layer(x) * factors).sum().backward()
    torch.testing.assert_close(layer.weight.grad, factors.t())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Binary("group"), "granularity 'group'"),
        (lambda: Binary(scale=0.0), "scale: 0.0"),
        (lambda: Ternary(method="best"), "method 'best'"),
        (lambda: PowerOfTwo(1), "bits: 1"),
        (lambda: MultiBinary(9), "bits: 9"),
        (lambda: DoReFa(0), "bits: 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()

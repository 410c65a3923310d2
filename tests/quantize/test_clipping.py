import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize.clipping import Pact, clipping_penalty, fix_clipping_, unit_clipping
from tersor.quantize.fake_quantize import FakeQuantize, put_before


@pytest.mark.parametrize("signed", [False, True])
def test_the_level_has_the_gradient_of_finite_differences(signed):
    values = torch.linspace(-5.013, 5, 300).double()
    weights = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    pact = Pact(bits=None, alpha=2.0, signed=signed).double()
    loss = (pact(values) * weights).sum()
    (gradient,) = torch.autograd.grad(loss, pact.alpha)
    losses = []
    for level in (2 + 1e-6, 2 - 1e-6):
        moved = Pact(bits=None, signed=signed).double()
        moved.alpha.data.fill_(level)
        losses.append((moved(values) * weights).sum().item())
    assert gradient.item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_rounding_passes_every_gradient(signed):
    values = torch.linspace(-5, 5, 101, requires_grad=True)
    grads = []
    for bits in (None, 4):
        pact = Pact(bits=bits, alpha=2.0, signed=signed)
        grads.append(
            torch.autograd.grad((pact(values) * values.detach()).sum(), [values, pact.alpha])
        )
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_the_clipped_value_is_the_papers_formula_and_a_large_level_a_relu():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    formula = 0.5 * (values.abs() - (values - 1.5).abs() + 1.5)
    torch.testing.assert_close(Pact(bits=None, alpha=1.5)(values), formula)
    assert torch.equal(Pact(bits=None, alpha=100.0)(values), values.relu())


@pytest.mark.parametrize("signed", [False, True])
def test_fixed_it_gives_the_same_values(signed):
    values = torch.linspace(-3, 3, 1001)
    pact = Pact(bits=4, alpha=1.7, signed=signed)
    assert len(pact(values).unique()) == (15 if signed else 16)
    torch.testing.assert_close(pact.fixed()(values), pact(values).detach(), rtol=0, atol=1e-6)


def test_the_penalty_is_the_sum_of_squares_and_trains():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for layer, alpha in zip(model, (2.0, 3.0), strict=True):
        put_before(layer, Pact(alpha=alpha))
    penalty = clipping_penalty(model)
    assert penalty.item() == 13.0
    penalty.backward()
    assert model[0].input_quantizer.alpha.grad.item() == 4.0
    with pytest.raises(ConfigError, match="Linear has no Pact"):
        clipping_penalty(nn.Linear(1, 1))


def test_fixing_leaves_the_outputs_or_nothing_changed():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    for layer in model:
        put_before(layer, Pact(bits=4, alpha=1.0))
    inputs = torch.rand(20, 2)
    before = model(inputs)
    model[1].input_quantizer.alpha.data.fill_(-1.0)
    with pytest.raises(ConfigError, match=r"alpha is -1\.0"):
        fix_clipping_(model)
    assert isinstance(model[0].input_quantizer, Pact)
    model[1].input_quantizer.alpha.data.fill_(1.0)
    assert fix_clipping_(model) == 2
    assert isinstance(model[0].input_quantizer, FakeQuantize)
    torch.testing.assert_close(model(inputs), before)


def test_unit_clipping_is_dorefas_rule():
    values = torch.linspace(-2, 2, 373).double()  # none of them half-way
    for bits in (1, 2, 4):
        expected = ((2**bits - 1) * values.clamp(0, 1)).round() / (2**bits - 1)
        torch.testing.assert_close(unit_clipping(bits).double()(values), expected)
    assert unit_clipping(2, signed=True)(values.float()).unique().tolist() == [-1.0, 0.0, 1.0]


def test_what_makes_no_clipping_is_refused():
    with pytest.raises(ConfigError, match=r"alpha: 0; expected a finite number above 0"):
        Pact(alpha=0)
    with pytest.raises(ConfigError, match="bits: 0; expected"):
        Pact(bits=0)
    with pytest.raises(ConfigError, match="no bits"):
        Pact(bits=None).fixed()

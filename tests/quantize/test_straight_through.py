import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.quantize import BACKWARDS, Affine, CodebookGrid, straight_through

X = torch.tensor([-3.0, -1.0, -0.6, 0.2, 0.99, 1.0, 1.01, 5.0], dtype=torch.float64)
GRID = CodebookGrid(torch.tensor([-1.0, 0.0, 0.5, 1.0], dtype=torch.float64))


def gradient(backward) -> torch.Tensor:
    x = X.clone().requires_grad_(True)
    y = straight_through(x, GRID, backward)
    assert torch.equal(y, GRID.round(X))
    (y * torch.arange(8.0)).sum().backward()
    return x.grad


def test_clipped_is_the_gradient_of_clipping():
    x = X.clone().requires_grad_(True)
    (x.clamp(-1, 1) * torch.arange(8.0)).sum().backward()
    assert torch.equal(gradient("clipped"), x.grad)


def test_identity_lets_every_gradient_pass():
    assert torch.equal(gradient("identity"), torch.arange(8.0).double())


def test_tanh_is_the_gradient_of_tanh_over_the_range():
    x = X.clone().requires_grad_(True)
    (x.tanh() * torch.arange(8.0)).sum().backward()
    torch.testing.assert_close(gradient("tanh"), x.grad)


def test_a_rule_of_ones_own_is_taken():
    halves = gradient(lambda values, low, high: torch.full_like(values, 0.5))
    assert torch.equal(halves, torch.arange(8.0).double() / 2)


def test_an_unknown_rule_is_answered_with_a_near_miss():
    with pytest.raises(ConfigError, match="backward 'cliped': did you mean 'clipped'"):
        straight_through(X, GRID, "cliped")


@pytest.mark.parametrize("backward", BACKWARDS)
def test_the_bounds_are_those_of_each_channel(backward):
    weight = torch.tensor([[1.0, -0.5], [10.0, 3.0]])
    grid = Affine(4).fit(weight)
    x = torch.tensor([[0.9, 1.5], [9.0, 11.0]], requires_grad=True)
    straight_through(x, grid, backward).sum().backward()
    factors = BACKWARDS[backward](x.detach(), *grid.bounds())
    assert torch.equal(x.grad, factors)
    if backward == "clipped":
        assert x.grad.tolist() == [[1.0, 0.0], [1.0, 0.0]]

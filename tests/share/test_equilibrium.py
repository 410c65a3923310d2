from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import Equilibrium, anderson


class Affine(nn.Module):
    """z -> z A' + x B', with ||A|| = 0.7."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        a = torch.randn(4, 4, dtype=torch.float64)
        self.a = nn.Parameter(0.7 * a / torch.linalg.matrix_norm(a, 2))
        self.b = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return z @ self.a.T + x @ self.b.T


class Tanh(Affine):
    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().forward(z, x).tanh()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_(), torch.zeros(6, 4, dtype=torch.float64)


def gradients(z: torch.Tensor, layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(z.pow(3).sum(), (layer.a, layer.b, x))


def test_of_a_linear_layer_point_and_gradients_are_the_closed_form():
    layer, (x, start) = Affine(), inputs()
    z = Equilibrium(layer, tolerance=1e-13, most=200)(x, start)
    exact = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - layer.a, layer.b @ x.T).T
    torch.testing.assert_close(z, exact)
    for found, expected in zip(gradients(z, layer, x), gradients(exact, layer, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_it_agrees_with_200_layers_that_share_their_weights():
    layer, (x, start) = Tanh(), inputs()
    z = Equilibrium(layer, tolerance=1e-13, most=200)(x, start)
    unrolled = start
    for _ in range(200):
        unrolled = layer(unrolled, x)
    torch.testing.assert_close(z, unrolled)
    for found, expected in zip(gradients(z, layer, x), gradients(unrolled, layer, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_iterations():
    layer, (x, start) = Tanh(), inputs()
    sizes = []
    for most in (5, 100):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            Equilibrium(layer, tolerance=1e-15, most=most)(x, start)
        sizes.append(sum(kept))
    assert sizes[0] == sizes[1] > 0


def test_anderson_needs_fewer_steps_than_plain_iteration():
    layer, (x, start) = Affine(), inputs()
    calls = [0, 0]

    def counted(place: int):
        def step(z: torch.Tensor) -> torch.Tensor:
            calls[place] += 1
            return layer(z, x).detach()

        return step

    anderson(counted(0), start, tolerance=1e-8, most=500)
    anderson(counted(1), start, tolerance=1e-8, most=500, memory=1)
    assert calls[0] < calls[1] / 2


def test_the_residual_tells_where_there_is_no_point():
    model = Equilibrium(lambda z, x: 2 * z + x, most=1)
    x = torch.ones(2)
    model(x, torch.ones(2))
    assert model.residual == pytest.approx(2 / 3)


def test_without_gradients_it_is_the_point_alone():
    layer, (x, start) = Tanh(), inputs()
    model = Equilibrium(layer, tolerance=1e-10)
    with torch.no_grad():
        z = model(x, start)
    assert not z.requires_grad
    torch.testing.assert_close(z, model(x, start).detach())
    assert [name for name, _ in model.named_parameters()] == ["layer.a", "layer.b"]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="tolerance 0, most 50"):
        Equilibrium(Tanh(), tolerance=0)

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from tersor.core.errors import ConfigError
from tersor.measure.jacobian import Spectrum, jacobian_spectrum, layer_spectra


def chain(*sides: int, activation: type[nn.Module] | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sides):
        layers += [nn.Linear(inputs, outputs), *([activation()] if activation else [])]
    return nn.Sequential(*layers).double()


def orthogonal(model: nn.Module, gain: float = 1.0) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
    return model


def inputs(count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *shape, generator=generator, dtype=torch.double)


def test_an_orthogonal_linear_network_has_singular_values_of_one():
    model = orthogonal(chain(6, 6, 6, 6))
    spectrum = jacobian_spectrum(model, inputs(5, 6))
    torch.testing.assert_close(spectrum.values, torch.ones(5, 6, dtype=torch.double))
    assert spectrum.distance_to_isometry < 1e-6
    layers = layer_spectra(model, inputs(5, 6))
    assert list(layers) == ["0", "1", "2"]
    assert all(layer.distance_to_isometry < 1e-6 for layer in layers.values())


def test_a_linear_network_has_those_of_the_product_of_its_matrices():
    model = chain(7, 5, 6, 3)
    product = model[2].weight @ model[1].weight @ model[0].weight
    expected = torch.linalg.svdvals(product.detach()).expand(4, 3)
    torch.testing.assert_close(jacobian_spectrum(model, inputs(4, 7)).values, expected)


def test_a_convolution_has_those_of_finite_differences():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
    x, step = inputs(3, 2, 4, 4), 1e-6
    columns = []
    for index in range(32):
        move = torch.zeros(32, dtype=torch.double).index_fill_(0, torch.tensor(index), step)
        move = move.view(2, 4, 4)
        with torch.no_grad():
            columns.append((model(x + move) - model(x - move)) / (2 * step))
    expected = torch.linalg.svdvals(torch.stack(columns, 2))
    torch.testing.assert_close(jacobian_spectrum(model, x).values, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_the_values_are_those_of_torch_func_whatever_the_chunk(chunk_size):
    model, x = chain(5, 8, 3, activation=nn.Tanh), inputs(5, 5)
    expected = torch.linalg.svdvals(vmap(jacrev(model))(x).detach())
    found = jacobian_spectrum(model, x, chunk_size=chunk_size)
    torch.testing.assert_close(found.values, expected)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_has_those_of_torchs_own_jacobian(recurrent):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = recurrent(3, 4, batch_first=True)

        def forward(self, x):
            return self.body(x)[0][:, -1]

    model, x = Last().double(), inputs(2, 5, 3)
    each = [torch.autograd.functional.jacobian(lambda one: model(one[None])[0], one) for one in x]
    expected = torch.linalg.svdvals(torch.stack(each).flatten(2))
    torch.testing.assert_close(jacobian_spectrum(model, x).values, expected)


def test_a_layer_is_its_weights_times_the_slope_of_the_activation_after_it():
    model, x = chain(4, 6, 5, activation=nn.Tanh), inputs(3, 4)
    hidden = model[0](x)
    first = (1 - hidden.tanh().square()).unsqueeze(2) * model[0].weight
    second = (1 - model(x).square()).unsqueeze(2) * model[2].weight
    found = layer_spectra(model, x, chunk_size=2)
    torch.testing.assert_close(found["0"].values, torch.linalg.svdvals(first.detach()))
    torch.testing.assert_close(found["2"].values, torch.linalg.svdvals(second.detach()))


def test_layerwise_isometry_bounds_the_whole_network():
    model, x = orthogonal(chain(*[8] * 6, activation=nn.Tanh), gain=1.2), 0.1 * inputs(20, 8)
    epsilon = max(layer.distance_to_isometry for layer in layer_spectra(model, x).values())
    assert 0.05 < epsilon < 1
    error = inputs(20, 8)
    jacobians = vmap(jacrev(model))(x).detach()
    stretched = torch.einsum("no,noi->ni", error, jacobians).norm(dim=1) / error.norm(dim=1)
    whole = jacobian_spectrum(model, x)
    for least, most in ((stretched.min(), stretched.max()), (whole.min, whole.max)):
        assert (1 - epsilon) ** 5 <= least <= most <= (1 + epsilon) ** 5


def test_gradients_are_the_error_carried_back_by_the_jacobian():
    # dL/dW(l) = (e J(l,K) D(l))^T x(l-1)^T, spec of the paper's equation 3, against autograd
    model, x = chain(4, 6, 5, 3, activation=nn.Tanh), inputs(1, 4)[0]
    error = inputs(1, 3)[0]
    (expected,) = torch.autograd.grad(model(x) @ error, model[2].weight)
    before = model[1](model[0](x))
    slope = 1 - model[2](before).tanh().square()
    onwards = jacrev(model[4:])(model[3](model[2](before)))
    torch.testing.assert_close(torch.outer((error @ onwards) * slope, before), expected)


def test_relu_halves_the_spectrum_of_an_orthogonal_layer():
    model, x = orthogonal(chain(64, 64, activation=nn.ReLU)), inputs(10, 64)
    active = (model[0](x) > 0).sum(1)
    found = layer_spectra(model, x)["0"].values
    assert (found > 0.5).sum(1).tolist() == active.tolist()  # 1 for each active unit, else 0
    assert 20 < active.double().mean() < 44


class Watched(nn.Module):
    """Batch norm, dropout, an activation in place, and a weight whose gradient somebody needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(4, 2)
        self.norm.eval()

    def forward(self, x):
        return self.second(self.drop(torch.relu_(self.norm(self.first(x)))))


def test_batch_norm_and_dropout_are_as_in_use_and_everything_is_as_it_was():
    model, x = Watched().double(), inputs(6, 4)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7)
    model.first.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    whole = jacobian_spectrum(model, x)
    layers = layer_spectra(model, x)
    assert torch.equal(torch.rand(1), expected_draw)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert all((p.grad == 7).all() for p in model.parameters())
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert not model.first.weight.requires_grad
    assert not x.requires_grad
    assert not model.first._forward_pre_hooks
    model.eval()
    mask = (model.norm(model.first(x)) > 0).unsqueeze(2)
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    first = (mask * scale[:, None] * model.first.weight).detach()  # (N, 4, 4)
    torch.testing.assert_close(layers["first"].values, torch.linalg.svdvals(first))
    both = model.second.weight.detach() @ first
    torch.testing.assert_close(whole.values, torch.linalg.svdvals(both))


def test_a_layer_that_is_called_twice_counts_twice():
    layer = nn.Linear(3, 3).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert list(layer_spectra(model, inputs(2, 3))) == ["0", "0 (2)"]
    assert list(layer_spectra(model, inputs(2, 3), chunk_size=1)) == ["0", "0 (2)"]


def test_the_numbers_of_a_spectrum_are_those_of_all_values():
    spectrum = Spectrum(torch.tensor([[3.0, 1.0], [0.5, 0.5]]))
    assert (spectrum.mean, spectrum.min, spectrum.max) == (1.25, 0.5, 3.0)
    assert spectrum.std == pytest.approx(math.sqrt(10.5 / 4 - 1.25**2))
    assert spectrum.distance_to_isometry == 2.0


class Detour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.left(x) + self.right(torch.ones_like(x))


def test_branches_are_no_chain():
    with pytest.raises(ConfigError, match="what follows layer 'left' does not depend"):
        layer_spectra(Detour(), torch.ones(1, 2))


@pytest.mark.parametrize("measure", [jacobian_spectrum, layer_spectra])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(2, 3, dtype=torch.long), r"inputs \(2, 3\) of torch.int64"),
        (torch.ones(0, 3), r"inputs \(0, 3\)"),
        (torch.ones(3), r"inputs \(3,\)"),
    ],
)
def test_what_is_no_sample_is_refused(measure, bad, message):
    with pytest.raises(ConfigError, match=message):
        measure(nn.Linear(3, 1), bad)


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="chunk_size 0"):
        jacobian_spectrum(nn.Linear(3, 1), torch.ones(2, 3), chunk_size=0)

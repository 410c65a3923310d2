import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks import build_model
from tersor.tasks.networks import mlp

X = torch.linspace(-1, 1, 3 * 20, dtype=torch.float64).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("activation", "by_hand"),
    [
        (nn.Tanh, torch.tanh),
        (nn.ReLU, lambda x: x.clamp(min=0)),
        (nn.LeakyReLU, lambda x: torch.where(x < 0, 0.01 * x, x)),
        (nn.Identity, lambda x: x),
    ],
)
def test_layers_are_matrix_products_with_the_activation_between(activation, by_hand):
    torch.manual_seed(0)
    model = mlp((4, 5), 2, widths=(6, 3), activation=activation).double()
    hidden = X.reshape(3, 20)
    for layer in (model.fc1, model.fc2):
        hidden = by_hand(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model(X), hidden @ model.fc3.weight.T + model.fc3.bias)


def test_without_hidden_layers_it_is_one_linear_map():
    model = mlp((4, 5), 2, widths=()).double()
    torch.testing.assert_close(model(X), X.reshape(3, 20) @ model.fc1.weight.T + model.fc1.bias)


@pytest.mark.parametrize("layers", [3, 5, 7])
def test_those_of_the_catalog_have_so_many_layers_of_100_units_and_tanh(layers):
    kinds = list(build_model(f"mlp-{layers}"))
    linear = [m.out_features for m in kinds if isinstance(m, nn.Linear)]
    assert linear == [*[100] * (layers - 1), 10]
    assert sum(isinstance(m, nn.Tanh) for m in kinds) == layers - 1


def test_a_width_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"widths \(10, 0\), expected 1 or more"):
        mlp((1, 8, 8), 10, widths=(10, 0))

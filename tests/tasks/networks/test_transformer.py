import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.tasks.networks import transformer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return transformer((2, 6, 4), 3, width=8, heads=2, hidden=10, layers=2).double()


X = torch.linspace(-2, 2, 5 * 2 * 6 * 4, dtype=torch.float64).sin().reshape(5, 2, 6, 4)
TURNED = X.flip(2)  # the rows in the opposite order


def test_only_the_positions_tell_the_rows_apart(model):
    assert (model(X) - model(TURNED)).abs().max() > 1e-4
    model.positions.data.zero_()
    torch.testing.assert_close(model(X), model(TURNED))


def test_a_row_attends_to_all_others(model):
    changed = X.clone()
    changed[:, :, 0] += 1
    tokens = [model.encoder.layer1(model.embed(x.transpose(1, 2).flatten(2))) for x in (X, changed)]
    assert ((tokens[0] - tokens[1])[:, 1:].abs().amax(dim=2) > 0).all()


def test_layers_start_with_weights_of_their_own(model):
    first, second = model.encoder
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)


def test_evaluation_gives_what_training_gives(model):
    trained = model.train()(X)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(X), trained)


def test_heads_part_the_width():
    with pytest.raises(ConfigError, match="3 heads do not part a width of 32"):
        transformer((1, 28, 28), 10, heads=3)

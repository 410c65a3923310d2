import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.core.seeding import seed_everything
from tersor.tasks import build_model
from tersor.tasks.networks import transformer_lm


@pytest.fixture
def network():
    seed_everything(0)
    return transformer_lm((8,), 30, width=16, heads=2, hidden=32).eval()


def test_a_token_is_told_from_those_before_it_alone(network):
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5] = 29
    before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[..., :5], after[..., :5])
    assert (before[..., 5:] != after[..., 5:]).any(1).all()


def test_shapes_and_shorter_texts(network):
    assert network(torch.zeros(3, 8, dtype=torch.long)).shape == (3, 30, 8)
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(network(tokens[:, :4]), network(tokens)[..., :4])


def test_the_parameters_that_the_docstring_counts():
    network = build_model("transformer-lm", input_shape=(32,), classes=10_000)
    assert sum(p.numel() for p in network.parameters()) == 2_960_896


def test_an_image_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"input_shape \(1, 28, 28\), expected \(tokens,\)"):
        build_model("transformer-lm", input_shape=(1, 28, 28))
    with pytest.raises(ConfigError, match="3 heads do not part a width of 16"):
        transformer_lm((8,), 30, width=16, heads=3)

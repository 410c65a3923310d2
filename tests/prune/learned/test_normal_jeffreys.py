import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import divergence, finalize_, normal_jeffreys_, normal_jeffreys_divergence
from tersor.prune.learned.variational_dropout import K1, K2, K3


@pytest.fixture(params=["linear", "conv"])
def layer(request) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(5, 3) if request.param == "linear" else nn.Conv2d(2, 3, 3, padding=1)
    normal_jeffreys_(made, log_variance=-3.0)
    return made


def inputs_of(layer: nn.Module, samples: int) -> torch.Tensor:
    shape = (5,) if isinstance(layer, nn.Linear) else (2, 4, 4)
    one = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    return one.expand(samples, *shape)


def test_scales_stand_along_inputs_of_linear_layers_and_filters_of_convolutions(layer):
    assert len(layer.scale_mean) == (5 if isinstance(layer, nn.Linear) else 3)


def test_the_divergence_of_the_weights_is_that_of_gaussians_and_free_of_the_scales(layer):
    weight, scale = layer.weight.double(), (layer.log_variance / 2).exp().double()
    for z in (0.5, -3.0):  # KL(N(z mu, z^2 sigma^2) || N(0, z^2)) is the same for every z
        posterior = torch.distributions.Normal(z * weight, abs(z) * scale)
        prior = torch.distributions.Normal(torch.zeros_like(weight), abs(z))
        exact = torch.distributions.kl_divergence(posterior, prior).sum()
        found = normal_jeffreys_divergence(layer) - divergence(layer.log_alpha()).sum()
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    before = normal_jeffreys_divergence(layer) - divergence(layer.log_alpha()).sum()
    layer.scale_mean.data.mul_(5)
    after = normal_jeffreys_divergence(layer) - divergence(layer.log_alpha()).sum()
    torch.testing.assert_close(before, after, rtol=1e-5, atol=0)


def test_softplus_is_the_logarithm_of_the_weights_own_divergence():
    log_alpha = torch.linspace(-8, 8, 50, dtype=torch.float64)
    by_alpha = K1 - K1 * (K2 + K3 * log_alpha).sigmoid() + (1 + 1 / log_alpha.exp()).log() / 2
    torch.testing.assert_close(divergence(log_alpha), by_alpha)


def test_the_outputs_have_the_two_moments_that_drawn_weights_give(layer):
    torch.manual_seed(2)
    inputs = inputs_of(layer, 20_000)
    drawn = layer(inputs).detach()
    by_weights = []
    along = (1, -1) if isinstance(layer, nn.Linear) else (-1, 1, 1, 1)
    for _ in range(4000):
        deviation = (layer.scale_log_variance / 2).exp()
        z = (layer.scale_mean + deviation * torch.randn(len(deviation))).view(along)
        noise = (layer.log_variance / 2).exp() * torch.randn_like(layer.weight)
        weight = z * (layer.weight + noise)
        if isinstance(layer, nn.Linear):
            by_weights.append(nn.functional.linear(inputs[:1], weight, layer.bias))
        else:
            by_weights.append(nn.functional.conv2d(inputs[:1], weight, layer.bias, padding=1))
    sampled = torch.cat(by_weights).detach()
    deviation = sampled.std(dim=0)
    assert ((drawn.mean(0) - sampled.mean(0)).abs() < 5 * deviation / 4000**0.5).all()
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.08, atol=0)


def test_without_noise_it_is_the_plain_layer_bit_for_bit_in_eval_mode(layer):
    plain = nn.Linear(5, 3) if isinstance(layer, nn.Linear) else nn.Conv2d(2, 3, 3, padding=1)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    inputs = inputs_of(layer, 2)
    assert torch.equal(layer.eval()(inputs), plain(inputs))
    layer.log_variance.data.fill_(-torch.inf)
    layer.scale_log_variance.data.fill_(-torch.inf)
    torch.testing.assert_close(layer.train()(inputs), plain(inputs))


def test_pruned_groups_can_be_cut_out_of_a_dense_layer(layer):
    layer.scale_mean.data[1] = 1e-4
    inputs = inputs_of(layer, 2)
    expected = layer.eval()(inputs)
    masks, _ = finalize_(layer)
    if isinstance(layer, nn.Linear):
        live = masks["weight"].any(dim=0)
        assert live.tolist() == [True, False, True, True, True]
        slim = nn.functional.linear(inputs[:, live], layer.weight[:, live], layer.bias)
        torch.testing.assert_close(slim, expected)
    else:
        live = masks["weight"].flatten(1).any(dim=1)
        assert live.tolist() == [True, False, True]
        slim = nn.functional.conv2d(inputs, layer.weight[live], layer.bias[live], padding=1)
        torch.testing.assert_close(slim, expected[:, live])
        assert (expected[:, 1] == layer.bias[1]).all()


def test_the_threshold_can_be_set_after_training(layer):
    layer.scale_log_variance.data[0] = -1.0
    wide = copy.deepcopy(layer)
    wide.threshold = -2.0
    assert finalize_(layer)[0].density == 1
    assert finalize_(wide)[0].density < 1


def test_what_has_no_scales_is_refused():
    with pytest.raises(ConfigError, match="call normal_jeffreys_ first"):
        normal_jeffreys_divergence(nn.Linear(2, 2))

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import divergence, finalize_, log_uniform_divergence, variational_dropout_

C0 = (np.euler_gamma + math.log(2)) / 2


def exact(log_alpha: float) -> float:
    """log(alpha) / 2 - E log|e| - C0 for e ~ N(1, alpha): minus the divergence, by quadrature."""
    deviation = math.exp(log_alpha / 2)

    def integrand(e: float) -> float:
        return math.exp(-((e - 1) ** 2) / (2 * deviation**2)) * math.log(abs(e))

    # Past 12 deviations nothing is left; the logarithm's pole is an end of two pieces.
    low, high = 1 - 12 * deviation, 1 + 12 * deviation
    ends = sorted({low, high, *(p for p in (0.0, 1.0) if low < p < high)})
    total = sum(quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(ends))
    return log_alpha / 2 - total / (deviation * math.sqrt(2 * math.pi)) - C0


def test_the_divergence_is_within_a_hundredth_of_the_integral():
    for log_alpha in np.linspace(-8, 8, 33):
        found = -divergence(torch.tensor(float(log_alpha), dtype=torch.float64)).item()
        assert found == pytest.approx(exact(float(log_alpha)), abs=0.01)


def test_the_divergence_falls_to_zero_as_alpha_grows():
    values = divergence(torch.linspace(-8, 8, 200, dtype=torch.float64))
    assert (values.diff() < 0).all()
    assert (values > 0).all()
    assert divergence(torch.tensor(40.0, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)


@pytest.fixture(params=["linear", "conv"])
def layer(request) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(5, 3) if request.param == "linear" else nn.Conv2d(2, 3, 3, padding=1)
    variational_dropout_(made, log_variance=-2.0)
    return made


def inputs_of(layer: nn.Module, samples: int) -> torch.Tensor:
    shape = (5,) if isinstance(layer, nn.Linear) else (2, 4, 4)
    one = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    return one.expand(samples, *shape)


def test_the_outputs_have_the_two_moments_that_drawn_weights_give(layer):
    torch.manual_seed(2)
    inputs = inputs_of(layer, 20_000)
    drawn = layer(inputs).detach()
    by_weights = []
    for _ in range(4000):
        weight = layer.weight + (layer.log_variance / 2).exp() * torch.randn_like(layer.weight)
        if isinstance(layer, nn.Linear):
            by_weights.append(nn.functional.linear(inputs[:1], weight, layer.bias))
        else:
            by_weights.append(nn.functional.conv2d(inputs[:1], weight, layer.bias, padding=1))
    sampled = torch.cat(by_weights).detach()
    deviation = sampled.std(dim=0)
    assert ((drawn.mean(0) - sampled.mean(0)).abs() < 5 * deviation / math.sqrt(4000)).all()
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.08, atol=0)


def test_noise_differs_between_samples_and_is_the_seeds(layer):
    inputs = inputs_of(layer, 2)
    torch.manual_seed(3)
    one = layer(inputs)
    assert not torch.equal(one[0], one[1])
    torch.manual_seed(3)
    assert torch.equal(one, layer(inputs))


def test_no_variance_is_the_plain_layer_bit_for_bit_also_in_training(layer):
    layer.log_variance.data.fill_(-torch.inf)
    plain = nn.Linear(5, 3) if isinstance(layer, nn.Linear) else nn.Conv2d(2, 3, 3, padding=1)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    inputs = inputs_of(layer, 2)
    assert torch.equal(layer.train()(inputs), plain(inputs))
    assert torch.equal(layer.eval()(inputs), plain(inputs))


def test_gradients_are_finite_where_the_variance_of_an_output_is_zero(layer):
    layer(torch.zeros_like(inputs_of(layer, 2))).sum().backward()
    for parameter in layer.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_eval_mode_uses_the_weights_below_the_threshold_alone(layer):
    layer.weight.data.fill_(1.0)
    layer.weight.data[0] = 1e-3
    layer.log_variance.data.fill_(-2.0)
    layer.eval()
    assert layer(inputs_of(layer, 1))[:, 0].sub(layer.bias[0]).abs().max() == 0
    masks, _ = finalize_(layer)
    assert not masks["weight"][0].any()
    assert masks["weight"][1:].all()


def test_log_alpha_is_that_of_its_definition(layer):
    expected = (layer.log_variance.exp() / layer.weight.square()).log().clamp(-8, 8)
    torch.testing.assert_close(layer.log_alpha(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        log_uniform_divergence(layer), divergence(layer.log_alpha()).sum(), rtol=1e-6, atol=0
    )


def test_what_has_its_own_forward_is_skipped_with_the_reason():
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Mine(2, 2), nn.Conv1d(2, 2, 1))
    report = variational_dropout_(model)
    assert [row["name"] for row in report.rows] == ["0.weight"]
    assert report.skipped["1.weight"] == "of Mine; expected Linear or Conv2d"
    assert report.skipped["2.weight"] == "of Conv1d; expected Linear or Conv2d"
    with pytest.raises(ConfigError, match=r"no weight that can learn zeros \(.*weight: of Mine"):
        variational_dropout_(Mine(2, 2))
    with pytest.raises(ConfigError, match="call variational_dropout_ first"):
        log_uniform_divergence(nn.Linear(2, 2))


def test_training_it_prunes_the_inputs_that_carry_nothing():
    torch.manual_seed(0)
    layer = nn.Linear(10, 1, bias=False)
    variational_dropout_(layer, log_variance=-6.0)
    optimizer = torch.optim.Adam(layer.parameters(), 0.045)
    x = torch.randn(200, 10)
    y = x[:, :3] @ torch.tensor([2.0, -1.5, 1.0])
    for _ in range(400):
        optimizer.zero_grad()
        loss = (layer(x)[:, 0] - y).square().mean() + 0.05 * log_uniform_divergence(layer)
        loss.backward()
        optimizer.step()
    masks, _ = finalize_(layer)
    assert masks["weight"].tolist() == [[True] * 3 + [False] * 7]

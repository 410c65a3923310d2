import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import bottleneck, finalize_, information_bottleneck_


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.ReLU(),
        nn.Linear(6, 2),
    )


X = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(5))
LAYERS = ("1", "3", "6")  # after its own normalisation the first convolution needs no gate


@pytest.mark.parametrize(("mean", "log_variance"), [(1.0, -2.0), (0.3, 0.5), (-2.0, 1.0)])
def test_the_penalty_is_the_least_divergence_from_a_centred_gaussian(mean, log_variance):
    layer = nn.Linear(1, 1).double()
    information_bottleneck_(layer, [""])
    layer.gate_mean.data.fill_(mean)
    layer.gate_log_variance.data.fill_(log_variance)

    def divergence(log_xi: float) -> float:
        posterior = torch.distributions.Normal(mean, math.exp(log_variance / 2))
        prior = torch.distributions.Normal(0.0, math.exp(log_xi / 2))
        return torch.distributions.kl_divergence(posterior, prior).item()

    least = minimize_scalar(divergence, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9})
    assert bottleneck(layer).item() == pytest.approx(least.fun, abs=1e-6)


def test_the_penalty_is_zero_only_without_a_signal(net):
    information_bottleneck_(net, LAYERS)
    assert bottleneck(net) > 0
    for layer in LAYERS:
        net.get_submodule(layer).gate_mean.data.zero_()
    assert bottleneck(net) == 0
    net[6].gate_mean.data[2] = 1e-3
    assert bottleneck(net) > 0


def test_a_channel_of_a_convolution_counts_at_every_position(net):
    information_bottleneck_(net, LAYERS)
    net(X)
    one = math.log1p(math.exp(9.0)) / 2
    assert bottleneck(net).item() == pytest.approx(one * (4 * 16 + 3 * 4 + 6 * 1), rel=1e-6)


def test_without_a_penalty_all_channels_stay(net):
    report = information_bottleneck_(net, LAYERS)
    assert [row["gates"] for row in report.rows] == [4, 3, 6]
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        optimizer.step()
    masks, _ = finalize_(net)
    assert masks.density == 1


def test_noise_is_drawn_for_each_sample_and_channel(net):
    information_bottleneck_(net, ["3"], log_variance=0.0)
    inputs = torch.ones(2, 4, 5, 5)
    torch.manual_seed(0)
    out = net[3](inputs)
    plain = nn.functional.conv2d(inputs, net[3].weight, net[3].bias)
    ratio = out / plain
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert len(ratio[:, :, 0, 0].unique()) == 6
    torch.manual_seed(0)
    assert torch.equal(out, net[3](inputs))
    many = net[3](torch.ones(20_000, 4, 3, 3))[:, :, 0, 0] / plain[0, :, 0, 0]
    torch.testing.assert_close(many.mean(0), torch.ones(3), rtol=0, atol=0.05)
    torch.testing.assert_close(many.std(0), torch.ones(3), rtol=0.05, atol=0)


def test_closed_gates_leave_exact_zeros_in_weights_and_biases(net):
    net.train()(X)  # running statistics
    information_bottleneck_(net, LAYERS)
    for layer, channel in (("1", 2), ("3", 0), ("6", 5)):
        net.get_submodule(layer).gate_mean.data[channel] = 1e-4
        net.get_submodule(layer).gate_mean.data[channel - 1] = -0.7
    expected = net.eval()(X)
    masks, _ = finalize_(net)
    torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)
    assert set(masks) == {"1.weight", "3.weight", "6.weight"}
    for layer, channel in (("1", 2), ("3", 0), ("6", 5)):
        module = net.get_submodule(layer)
        assert not module.weight[channel].view(torch.int32).any()
        assert not module.bias[channel].view(torch.int32).any()
        assert not masks[f"{layer}.weight"][channel].any()
        assert int((~masks[f"{layer}.weight"]).sum()) == module.weight[channel].numel()


def test_by_itself_it_takes_all_layers_but_the_last(net):
    report = information_bottleneck_(net)
    assert [row["name"] for row in report.rows] == ["0.weight", "3.weight", "6.weight"]
    assert report.skipped == {"8": "the last layer: its outputs are those of the model"}


def test_a_penalty_closes_gates_that_the_loss_does_not_need():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 1))
    information_bottleneck_(net)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    x = torch.randn(256, 3)
    y = x[:, :1].relu()
    for _ in range(600):
        optimizer.zero_grad()
        ((net(x) - y).square().mean() + 0.01 * bottleneck(net)).backward()
        optimizer.step()
    masks, _ = finalize_(net)
    live = masks["0.weight"].any(dim=1).sum().item()
    assert 1 <= live <= 6
    assert (net.eval()(x) - y).square().mean() < 0.1 * y.square().mean()


def test_names_that_are_no_such_layer_are_refused(net):
    with pytest.raises(ConfigError, match="layers: '2' is no Linear"):
        information_bottleneck_(net, ["2"])
    with pytest.raises(ConfigError, match="has no layer to put gates on"):
        information_bottleneck_(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="call information_bottleneck_ first"):
        bottleneck(net)

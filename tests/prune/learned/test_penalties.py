import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.learned import (
    PENALTIES,
    batch_norm_scales,
    elimination_and_decay,
    group_lasso,
    grouped,
    l1,
    position,
    structured_sparsity,
    weight_decay,
    weight_elimination,
)
from tersor.prune.patterns import row


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3))
    for layer in (model[0], model[3]):
        nn.init.normal_(layer.weight)
    nn.init.normal_(model[1].weight)
    return model.double()


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_those_of_finite_differences(net, name):
    penalty = PENALTIES[name]
    value = penalty(net)
    assert value.shape == ()
    assert value > 0
    parameters = [p for p in net.parameters() if p.dim() > 1 or p is net[1].weight]
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    step = 1e-6
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for index in torch.randint(flat.numel(), (5,), generator=generator).tolist():
            old = float(flat[index])
            flat[index] = old + step
            above = penalty(net)
            flat[index] = old - step
            below = penalty(net)
            flat[index] = old
            difference = ((above - below) / (2 * step)).detach()
            torch.testing.assert_close(gradient.view(-1)[index], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_minimum_is_zero_at_zero_weights_and_its_gradient_is_finite(net, name):
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    value = PENALTIES[name](net)
    assert value == 0
    parameters = [p for p in net.parameters() if p.dim() > 1 or p is net[1].weight]
    for gradient in torch.autograd.grad(value, parameters, materialize_grads=True):
        assert torch.isfinite(gradient).all()


def test_group_lasso_of_single_weights_is_l1(net):
    torch.testing.assert_close(group_lasso(net, pattern="element"), l1(net))


def test_group_lasso_is_the_sum_of_scaled_norms(net):
    conv, linear = net[0].weight, net[3].weight
    by_hand = sum(math.sqrt(18) * conv[f].flatten().norm() for f in range(4))
    by_hand = by_hand + sum(math.sqrt(36) * linear[o].norm() for o in range(3))
    torch.testing.assert_close(group_lasso(net, pattern="row"), by_hand)
    by_hand = sum(
        math.sqrt(4) * conv[:, c, i, j].norm() for c in (0, 1) for i in range(3) for j in range(3)
    )
    found = group_lasso(net, pattern=position, select="0")
    torch.testing.assert_close(found, by_hand)


def test_structured_sparsity_pulls_a_weight_by_its_filter_and_its_channel(net):
    value = structured_sparsity(net, rows=2.0, channels=3.0, select="0")
    (gradient,) = torch.autograd.grad(value, [net[0].weight])
    weight = net[0].weight.detach()
    for f, c, i, j in ((0, 0, 0, 0), (3, 1, 2, 1)):
        w = weight[f, c, i, j]
        expected = 2 * w / weight[f].norm() + 3 * w / weight[:, c].norm()
        torch.testing.assert_close(gradient[f, c, i, j], expected)


def test_weight_decay_shrinks_every_weight_alike_and_keeps_their_order():
    layer = nn.Linear(6, 1, bias=False).double()
    start = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (0.5 * weight_decay(layer)).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), start * (1 - 0.1 * 0.5) ** 20)
    assert torch.equal(layer.weight.abs().argsort(), start.abs().argsort())


def single(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, value)
    return layer


def test_weight_elimination_counts_large_weights_and_decays_small_ones():
    assert weight_elimination(single(1e6)).item() == pytest.approx(0.5, abs=1e-9)
    assert weight_elimination(single(1e-5)).item() == pytest.approx(0.5e-10, rel=1e-6)
    assert weight_elimination(single(2e6), scale=2.0).item() == pytest.approx(0.5, abs=1e-9)


def test_weight_elimination_pulls_most_at_one_over_the_root_of_three():
    def pull(value: float) -> float:
        layer = single(value)
        return torch.autograd.grad(weight_elimination(layer), [layer.weight])[0].item()

    assert pull(0.7) == pytest.approx(0.7 / (1 + 0.49) ** 2, rel=1e-12)  # 2w / (1 + w^2)^2, halved
    steepest = max((i / 100 for i in range(1, 200)), key=pull)
    assert steepest == pytest.approx(1 / math.sqrt(3), abs=0.01)


def test_elimination_and_decay_has_both_as_its_limits(net):
    decay_alone = elimination_and_decay(net, elimination=0.0, decay=0.5)
    torch.testing.assert_close(decay_alone, weight_decay(net))
    elimination_alone = elimination_and_decay(net, elimination=0.5, decay=0.0)
    torch.testing.assert_close(elimination_alone, weight_elimination(net))
    scaled = elimination_and_decay(net, elimination=0.5, decay=0.0, beta=4.0)
    torch.testing.assert_close(scaled, weight_elimination(net, scale=0.5))


def test_batch_norm_scales_are_all_that_network_slimming_sees(net):
    torch.testing.assert_close(batch_norm_scales(net), net[1].weight.abs().sum())
    with pytest.raises(ConfigError, match="Linear has no batch normalisation"):
        batch_norm_scales(nn.Linear(2, 2))


def test_selectors_choose_the_weights(net):
    torch.testing.assert_close(l1(net, ignore="0"), net[3].weight.abs().sum())
    torch.testing.assert_close(
        group_lasso(net, pattern="kernel"), group_lasso(net, pattern="kernel", select="0")
    )


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(net, wrong):
    with pytest.raises(ConfigError, match=f"scale: {wrong}"):
        weight_elimination(net, scale=wrong)
    with pytest.raises(ConfigError, match=f"beta: {wrong}"):
        elimination_and_decay(net, beta=wrong)


def test_patterns_that_have_no_norm_are_refused(net):
    with pytest.raises(ConfigError, match=r"pattern '1:2': '0\.weight' has groups"):
        group_lasso(net, pattern="1:2")
    with pytest.raises(ConfigError, match=r"pattern 'kernel' fits no weight \(3\.weight"):
        group_lasso(net, pattern="kernel", select="3")


def test_blocks_are_groups(net):
    [found], _ = grouped([w for w in _weights(net) if w.name == "3.weight"], "3x4")
    expected = net[3].weight.view(3, 9, 4).square().sum(dim=(0, 2)).sqrt()
    torch.testing.assert_close(found.norms().flatten(), expected)
    assert (found.count, found.size) == (9, 12)


def test_groups_follow_the_outputs_of_transposed_convolutions():
    model = nn.ConvTranspose2d(2, 5, 3)
    [found], _ = grouped(_weights(model), row)
    assert (found.count, found.size) == (5, 18)
    [found], _ = grouped(_weights(model), position)
    assert (found.count, found.size) == (18, 5)


def _weights(model):
    return prunable(model)

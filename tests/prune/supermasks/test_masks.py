import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import finalize_
from tersor.prune.supermasks import (
    SUPERMASKS,
    edge_popup_,
    piggyback_,
    signed_constant_,
    stochastic_mask_,
    straight_through,
)


def mask_of(layer: nn.Module) -> nn.Module:
    return layer.parametrizations.weight[0]


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))


def train(model: nn.Module, rate: float = 0.1, count: int = 20):
    """Steps on random batches; after each one nothing is given."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=1e-3)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(16, 10, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        yield


def test_straight_through_is_the_mask_exactly_with_the_other_gradient():
    smooth = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e6
    smooth.requires_grad_()
    mask = straight_through(smooth > 0, smooth)
    assert torch.equal(mask, (smooth > 0).float())
    (3 * mask).sum().backward()
    assert (smooth.grad == 3).all()


@pytest.mark.parametrize("name", SUPERMASKS)
def test_weights_and_biases_are_bit_identical_after_training(net, name):
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    SUPERMASKS[name](net)
    scores = mask_of(net[0]).scores.detach().clone()
    for _ in train(net):
        pass
    assert not torch.equal(mask_of(net[0]).scores, scores)
    assert [n for n, p in net.named_parameters() if p.requires_grad] == [
        f"{i}.parametrizations.weight.0.scores" for i in (0, 2)
    ]
    masks, _ = finalize_(net)
    for name, parameter in net.named_parameters():
        kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter[kept], before[name][kept])
        assert parameter.requires_grad


@pytest.mark.parametrize("name", SUPERMASKS)
def test_the_gradient_of_a_score_is_that_of_its_mask_times_the_smooth_one(name):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    SUPERMASKS[name](layer)
    mask = mask_of(layer)
    x = torch.randn(7, 4, dtype=torch.float64)
    torch.manual_seed(1)
    out = layer(x)
    delta = torch.randn(7, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((out * delta).sum(), [mask.scores])
    weight = layer.parametrizations.weight.original
    by_mask = (delta.T @ x) * weight  # dL/dm = (delta x^T) * W
    p = mask.scores.sigmoid()
    smooth = {"edge_popup": mask.scores.sign(), "stochastic": p * (1 - p), "piggyback": 1.0}
    torch.testing.assert_close(gradient, (by_mask * smooth[name]).detach())


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 1.0, 0.123])
def test_exactly_the_share_of_each_layer_is_in_use(net, density):
    edge_popup_(net, density)
    for _ in train(net, count=5):
        for layer, count in ((net[0], round(density * 200)), (net[2], round(density * 100))):
            assert int(mask_of(layer).kept().sum()) == count
            assert int((layer.weight != 0).sum()) == count


def test_a_newly_used_edge_has_a_higher_score_than_the_one_it_replaces(net):
    edge_popup_(net, 0.5)
    mask = mask_of(net[0])
    before, changes = mask.kept(), 0
    for _ in train(net, rate=0.3):
        now = mask.kept()
        scores = mask.scores.detach().abs()
        came, went = now & ~before, before & ~now
        assert came.sum() == went.sum()
        if came.any():
            changes += 1
            assert scores[came].min() >= scores[went].max()
        assert scores[now].min() >= scores[~now].max()
        before = now
    assert changes > 5


def test_ties_are_by_index(net):
    edge_popup_(net, 0.5)
    mask_of(net[0]).scores.data.fill_(1.0)
    assert mask_of(net[0]).kept().flatten().tolist() == [True] * 100 + [False] * 100


def test_scores_are_those_of_the_seed_and_the_layer(net):
    edge_popup_(net, 0.5, seed=3)
    other = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    edge_popup_(other, 0.5, seed=3)
    assert torch.equal(mask_of(net[0]).scores, mask_of(other[0]).scores)
    third = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    edge_popup_(third, 0.5, seed=4)
    assert not torch.equal(mask_of(net[0]).scores, mask_of(third[0]).scores)
    bound = 1 / math.sqrt(10)
    assert 0.9 * bound < mask_of(net[0]).scores.abs().max() <= bound


def test_a_mask_is_drawn_with_the_probability_of_its_score():
    layer = nn.Linear(200, 300, bias=False)
    nn.init.ones_(layer.weight)
    stochastic_mask_(layer)
    for score in (-2.0, 0.0, 1.0):
        mask_of(layer).scores.data.fill_(score)
        torch.manual_seed(0)
        p = 1 / (1 + math.exp(-score))
        share = layer.weight.double().mean().item()
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 60_000))
        assert set(layer.weight.unique().tolist()) <= {0.0, 1.0}
        assert layer.eval().weight.mean() == (score > 0)
        layer.train()


def test_rescaled_masks_are_as_strong_as_the_whole():
    layer = nn.Linear(200, 300, bias=False)
    nn.init.ones_(layer.weight)
    stochastic_mask_(layer, probability=0.25, rescale=True)
    torch.manual_seed(0)
    assert layer.weight.mean().item() == pytest.approx(1.0)
    assert layer.weight.max().item() == pytest.approx(4.0, rel=0.05)


def test_piggyback_begins_with_the_network_as_it_is_and_leaves_its_head_to_training(net):
    x = torch.randn(3, 10)
    expected = net(x)
    piggyback_(net, ignore="2")
    assert torch.equal(net(x), expected)
    assert mask_of(net[0]).kept().all()
    head = net[2].weight.detach().clone()
    backbone = net[0].parametrizations.weight.original.detach().clone()
    for _ in train(net):
        pass
    assert torch.equal(net[0].parametrizations.weight.original, backbone)
    assert not torch.equal(net[2].weight, head)
    kept = mask_of(net[0]).kept()
    assert torch.equal(kept, mask_of(net[0]).scores >= 5e-3)
    assert 0 < kept.sum() < 200


@pytest.mark.parametrize("density", [1.0, 0.5, 0.3])
def test_signed_constants_keep_the_size_of_activations(density):
    torch.manual_seed(0)
    layer = nn.Linear(400, 500)
    signed_constant_(layer, density)
    size = layer.weight.abs().unique()
    assert len(size) == 1
    assert size.item() == pytest.approx(math.sqrt(2 / (400 * density)))
    assert (layer.weight > 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert not layer.bias.any()
    edge_popup_(layer, density)
    x = torch.randn(200, 400)
    # He et al.: a ReLU halves the second moment, which the constant's gain makes up for
    assert layer(x).relu().square().mean().item() == pytest.approx(1.0, rel=0.05)


def test_signs_are_those_of_the_seed_and_the_global_generator_is_left(net):
    before = torch.get_rng_state()
    signed_constant_(net, seed=1)
    edge_popup_(net, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    other = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    signed_constant_(other, seed=1)
    assert torch.equal(other[0].weight, net[0].parametrizations.weight.original)
    signed_constant_(other, seed=2)
    assert not torch.equal(other[0].weight, net[0].parametrizations.weight.original)


def test_what_was_frozen_before_stays_frozen_afterwards(net):
    net[0].bias.requires_grad_(False)
    edge_popup_(net)
    finalize_(net)
    assert not net[0].bias.requires_grad
    assert net[0].weight.requires_grad


def test_wrong_arguments_are_named(net):
    with pytest.raises(ConfigError, match=r"density: 0\.0"):
        edge_popup_(net, 0.0)
    with pytest.raises(ConfigError, match=r"density: 1\.5"):
        signed_constant_(net, 1.5)
    with pytest.raises(ConfigError, match="probability: 1"):
        stochastic_mask_(net, probability=1)
    with pytest.raises(ConfigError, match=r"initial 0\.0: below the threshold"):
        piggyback_(net, initial=0.0)

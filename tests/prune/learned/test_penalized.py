import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import Penalized, l1, weight_decay
from tersor.prune.learned.ramp import Ramp


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    shapes = {"generator": generator, "dtype": torch.float64}
    return torch.randn(8, 4, **shapes), torch.randn(8, 2, **shapes)


def steps(model, optimizer, numbers, penalty=lambda model: 0.0):
    for number in numbers:
        x, y = batch(number)
        optimizer.zero_grad()
        ((model(x) - y).square().mean() + penalty(model)).backward()
        optimizer.step()


def test_it_is_the_penalty_in_the_loss(net):
    by_hand = copy.deepcopy(net)
    optimizer = torch.optim.Adam(by_hand.parameters(), 0.01)
    steps(by_hand, optimizer, range(10), lambda model: 0.3 * l1(model))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    with Penalized(net, l1, 0.3).attach(optimizer):
        steps(net, optimizer, range(10))
    for one, other in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_decay_as_penalty_is_the_optimizers_for_sgd_and_not_for_adam(net):
    def run(make, decay):
        plain, penalized = copy.deepcopy(net), copy.deepcopy(net)
        optimizer = make(plain.parameters(), weight_decay=decay)
        for bias in (plain[0].bias, plain[2].bias, penalized[0].bias, penalized[2].bias):
            bias.requires_grad_(False)
        steps(plain, optimizer, range(5))
        optimizer = make(penalized.parameters())
        with Penalized(penalized, weight_decay, decay).attach(optimizer):
            steps(penalized, optimizer, range(5))
        return (plain[0].weight - penalized[0].weight).abs().max().item()

    assert run(lambda p, **more: torch.optim.SGD(p, 0.1, **more), 0.2) < 1e-12
    assert (
        run(lambda p, **more: torch.optim.AdamW(p, 0.1, **{"weight_decay": 0, **more}), 0.2) > 1e-3
    )


def test_it_begins_and_warms_up_where_it_was_told(net):
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    method = Penalized(net, l1, 0.5, start=2, warm_up=4)
    pulls = []
    with method.attach(optimizer):
        for _ in range(9):
            optimizer.zero_grad()
            optimizer.step()
            pulls.append(
                0.0 if net[0].weight.grad is None else net[0].weight.grad.abs().max().item()
            )
    assert pulls == [0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert method.step == 9


def test_frozen_parameters_and_those_without_a_part_have_no_gradient(net):
    net[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([net[2].weight], 1.0)
    with Penalized(net, l1, 0.5).attach(optimizer):
        optimizer.step()
    assert net[0].weight.grad is None
    assert net[0].bias.grad is None
    assert net[2].weight.grad is not None


def test_k_steps_save_load_and_k_steps_are_2k_steps(net):
    def start(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return optimizer, Penalized(model, l1, 0.5, start=2, warm_up=8)

    whole = copy.deepcopy(net)
    optimizer, method = start(whole)
    with method.attach(optimizer):
        steps(whole, optimizer, range(12))
    optimizer, first = start(net)
    with first.attach(optimizer):
        steps(net, optimizer, range(6))
    optimizer, second = start(net)
    second.load_state_dict(first.state_dict())
    with second.attach(optimizer):
        steps(net, optimizer, range(6, 12))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), net.parameters(), strict=True))


def test_what_is_no_scalar_is_refused(net):
    with pytest.raises(ConfigError, match=r"penalty: shape \(6, 4\)"):
        Penalized(net, lambda model: model[0].weight.abs(), 1.0)


@pytest.mark.parametrize("name", ["strength", "start", "warm_up"])
def test_a_negative_ramp_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: -1"):
        Ramp(**{"strength": 1.0, name: -1})

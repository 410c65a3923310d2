import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import PruningAware, group_soft_threshold


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    shapes = {"generator": generator, "dtype": torch.float64}
    return torch.randn(8, 6, **shapes), torch.randn(8, 3, **shapes)


def steps(model, optimizer, numbers):
    for number in numbers:
        x, y = batch(number)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def test_it_is_the_loop_of_hidden_weights_written_out(net):
    by_hand = copy.deepcopy(net)
    hidden = {n: p.detach().clone() for n, p in by_hand.named_parameters() if p.dim() == 2}
    rates = 0.0
    for number in range(8):
        rate = 0.1 / (1 + number)
        x, y = batch(number)
        by_hand.zero_grad()
        (by_hand(x) - y).square().mean().backward()
        rates += rate if number >= 2 else 0.0
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                if name in hidden:
                    hidden[name] -= rate * parameter.grad
                    seen = group_soft_threshold(hidden[name], 3.0 * rates, (1,))
                    parameter.copy_(seen if number >= 2 else hidden[name])
                else:
                    parameter -= rate * parameter.grad
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    method = PruningAware(net, 3.0, start=2, heal=100, pattern="row")
    with method.attach(optimizer):
        for number in range(8):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            steps(net, optimizer, [number])
    for one, other in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert (net[0].weight == 0).all(dim=1).any()


def test_zeros_are_frozen_while_it_heals(net):
    optimizer = torch.optim.AdamW(net.parameters(), 0.02, weight_decay=0.1)
    method = PruningAware(net, 0.3, heal=12, pattern="element")
    with method.attach(optimizer):
        steps(net, optimizer, range(12))
        assert method.finished
        masks = {name: mask.clone() for name, mask in method.masks.items()}
        before = net[2].weight.detach().clone()
        steps(net, optimizer, range(12, 24))
    dead = ~masks["0.weight"]
    assert 0 < dead.sum() < dead.numel()
    for name, mask in masks.items():
        assert not net.get_parameter(name)[~mask].view(torch.int64).any()
        assert torch.equal(method.masks[name], mask)
    assert not torch.equal(net[2].weight, before)


def test_a_hidden_weight_can_come_back():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.1)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    seen = []
    with PruningAware(layer, 2.0, heal=100).attach(optimizer):
        for _ in range(8):
            optimizer.zero_grad()
            (-4 * layer.weight.sum()).backward()
            optimizer.step()
            seen.append(round(layer.weight.item(), 4))
    # hidden 0.1 + 0.4 k, threshold 0.2 k
    assert seen == [round(0.1 + 0.2 * k, 4) for k in range(1, 9)]


@pytest.mark.parametrize("k", [1, 5, 9])
def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(net, k):
    def start(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        return optimizer, PruningAware(model, 0.2, start=3, heal=12)

    whole = copy.deepcopy(net)
    optimizer, method = start(whole)
    with method.attach(optimizer):
        steps(whole, optimizer, range(2 * k))
    optimizer, first = start(net)
    with first.attach(optimizer):
        steps(net, optimizer, range(k))
    state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(first.state_dict())
    optimizer, second = start(net)
    optimizer.load_state_dict(state[0])
    second.load_state_dict(state[1])
    with second.attach(optimizer):
        steps(net, optimizer, range(k, 2 * k))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), net.parameters(), strict=True))
    assert second.finished == (2 * k >= 12)


def test_a_reversed_window_is_refused(net):
    with pytest.raises(ConfigError, match="start 5, heal 5"):
        PruningAware(net, 1.0, start=5, heal=5)
    with pytest.raises(ConfigError, match="strength: -1"):
        PruningAware(net, -1.0, heal=5)

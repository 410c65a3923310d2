import copy

import pytest
import torch
from torch import nn
from truths import total_loss, without

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import Karnin


def train(model, optimizer, data, count):
    for _ in range(count):
        for inputs, targets in data.batches:
            optimizer.zero_grad()
            data.loss(model(inputs), targets).backward()
            optimizer.step()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_from_zero_in_small_steps_it_is_what_the_loss_fell_by(optimizer):
    # One weight, loss (w - 2)**2, from w = 0.
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.detach().zero_()
    steps = optimizer(model.parameters(), 1e-3)
    method = Karnin(model)
    with method.attach(steps):
        for _ in range(300):
            steps.zero_grad()
            (model.weight - 2).square().sum().backward()
            steps.step()
    last = model.weight.item()
    fell = 4 - (last - 2) ** 2
    assert 0.2 < last < 1
    assert method.scores(model, None)["weight"].item() == pytest.approx(fell, rel=2e-3)


def test_from_elsewhere_it_is_scaled_up_to_the_way_back_to_zero():
    # A loss of constant slope 1: the fall from w_i to w_f, times w_f / (w_f - w_i), is w_f.
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.detach().fill_(-1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    method = Karnin(model)
    with method.attach(optimizer):
        for _ in range(10):
            optimizer.zero_grad()
            model.weight.sum().backward()
            optimizer.step()
    assert method.scores(model, None)["weight"].item() == pytest.approx(1.1)


def test_for_plain_descent_it_is_the_form_with_squared_changes(net, data):
    # S = | sum (change of w)**2 * w_f / (rate * (w_f - w_i)) |
    rate, first = 0.05, net[0].weight.detach().clone()
    optimizer, method = torch.optim.SGD(net.parameters(), rate), Karnin(net)
    squares = torch.zeros_like(first)
    with method.attach(optimizer):
        for inputs, targets in data.batches * 3:
            before = net[0].weight.detach().clone()
            optimizer.zero_grad()
            data.loss(net(inputs), targets).backward()
            optimizer.step()
            squares += (net[0].weight.detach() - before) ** 2
    last = net[0].weight.detach()
    expected = (squares * last / (rate * (last - first))).abs()
    torch.testing.assert_close(method.scores(net, data)["0.weight"], expected)


def test_a_run_that_was_stopped_goes_on_to_the_same_scores(net, data):
    whole, halves = copy.deepcopy(net), copy.deepcopy(net)
    one, method = torch.optim.Adam(whole.parameters(), 0.01), Karnin(whole)
    with method.attach(one):
        train(whole, one, data, 4)
    two, first = torch.optim.Adam(halves.parameters(), 0.01), Karnin(halves)
    with first.attach(two):
        train(halves, two, data, 2)
    saved = copy.deepcopy(first.state_dict())
    second = Karnin(halves)  # begins here, until it is told where it began
    second.load_state_dict(saved)
    with second.attach(two):
        train(halves, two, data, 2)
    expected = method.scores(whole, data)
    assert all(torch.equal(s, expected[n]) for n, s in second.scores(halves, data).items())


def test_what_did_not_move_or_is_zero_or_came_back_has_finite_scores():
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.detach().copy_(torch.tensor([[1.0, 0.5, 0.0, 2.0]]))
    optimizer, method = torch.optim.SGD(model.parameters(), 0.5), Karnin(model)
    with method.attach(optimizer):
        for slope in ([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]):
            model.weight.grad = torch.tensor([slope]).double()
            optimizer.step()
    assert model.weight.tolist() == [[1.0, 0.0, 0.0, 2.0]]
    scores = method.scores(model, None)["weight"]
    # Never pushed; now 0, so its going costs nothing; always 0.
    assert scores[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(scores).all()
    with pytest.raises(ConfigError, match="criterion Karnin: no step has been made"):
        Karnin(model).scores(model, None)


def test_what_it_prunes_costs_less_than_what_it_keeps(net, data):
    for parameter in net.parameters():
        parameter.detach().mul_(0.1)
    optimizer, method = torch.optim.SGD(net.parameters(), 0.1), Karnin(net)
    with method.attach(optimizer):
        train(net, optimizer, data, 200)
    masks, _ = prune_(copy.deepcopy(net), 0.5, criterion=method.scores)
    before = total_loss(net, data)
    costs = {True: [], False: []}
    for index, kept in enumerate(masks["0.weight"].flatten().tolist()):
        costs[kept].append(without(net[0].weight, index, lambda: total_loss(net, data)) - before)
    assert sum(costs[False]) / len(costs[False]) < sum(costs[True]) / len(costs[True])

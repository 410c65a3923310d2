import copy

import pytest
import torch
from torch import nn
from truths import close, slopes, total_loss

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import Movement, movement
from tersor.prune.scoring import ScoringData


def steps(model, optimizer, data, count):
    for _ in range(count):
        for inputs, targets in data.batches:
            optimizer.zero_grad()
            data.loss(model(inputs), targets).backward()
            optimizer.step()


def test_movement_is_minus_the_weight_times_the_slope(net, data):
    found = slopes(lambda: total_loss(net, data), net)
    expected = {w.name: -w.parameter.detach() * found[w.name] for w in prunable(net)}
    close(movement(net, data), expected, rtol=1e-5)


def test_weights_that_a_step_moves_away_from_zero_score_above_it(net, data):
    scores, before = movement(net, data), [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), 1e-6)
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    data.loss(net(inputs), targets).backward()
    optimizer.step()
    grown = net[0].weight.detach().abs() > before[0].abs()
    assert torch.equal(grown, scores["0.weight"] > 0)


def test_over_a_training_movements_add_up(net, data):
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    method, expected = Movement(net), 0.0
    with method.attach(optimizer):
        for inputs, targets in data.batches * 3:
            one = ScoringData([(inputs, targets)])
            expected = expected + movement(net, one)["0.weight"]
            optimizer.zero_grad()
            data.loss(net(inputs), targets).backward()
            optimizer.step()
    torch.testing.assert_close(method.scores(net, data)["0.weight"], expected)
    assert method.finished
    steps(net, optimizer, data, 1)  # detached: no more is added
    torch.testing.assert_close(method.scores(net, data)["0.weight"], expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_run_that_was_stopped_goes_on_to_the_same_scores(net, data, momentum):
    def run(model, method, optimizer, count):
        with method.attach(optimizer):
            steps(model, optimizer, data, count)

    whole, halves = copy.deepcopy(net), copy.deepcopy(net)
    one = torch.optim.SGD(whole.parameters(), 0.1, momentum=momentum)
    method = Movement(whole)
    run(whole, method, one, 4)
    two, first = torch.optim.SGD(halves.parameters(), 0.1, momentum=momentum), Movement(halves)
    run(halves, first, two, 2)
    saved = copy.deepcopy(first.state_dict())
    steps(copy.deepcopy(halves), torch.optim.SGD(net.parameters(), 0.1), data, 0)
    second = Movement(halves)
    second.load_state_dict(saved)
    run(halves, second, two, 2)
    expected = method.scores(whole, data)
    assert all(torch.equal(s, expected[n]) for n, s in second.scores(halves, data).items())
    assert second.step == method.step == 8


def test_its_scores_are_a_criterion_and_only_of_what_is_followed(net, data):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    method = Movement(net, ignore="2")
    with pytest.raises(ConfigError, match="criterion Movement: no step has been made"):
        method.scores(net, data)
    with method.attach(optimizer):
        steps(net, optimizer, data, 2)
    masks, _ = prune_(net, 0.5, criterion=method.scores, ignore="2")
    scores = method.scores(net, data)["0.weight"]
    assert scores[masks["0.weight"]].min() > scores[~masks["0.weight"]].max()
    with pytest.raises(ConfigError, match=r"does not have '0.weight'"):
        method.attach(torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1))

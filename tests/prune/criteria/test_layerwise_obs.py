from importlib import import_module

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.criteria import layerwise_obs
from tersor.prune.scoring import ScoringData


def test_twice_the_score_is_the_error_that_is_left_after_the_best_fit(net, data):
    # Of the second layer, whose inputs are the first one's outputs.
    inputs = net[:2](torch.cat([x for x, _ in data.batches])).detach()
    scores = layerwise_obs(net, data, damping=0.0)["2.weight"]
    for row in range(2):
        outputs = inputs @ net[2].weight[row].detach()
        for column in range(4):
            left = [c for c in range(4) if c != column]
            fit = torch.linalg.lstsq(inputs[:, left], outputs[:, None]).solution[:, 0]
            error = (inputs[:, left] @ fit - outputs).square().mean()
            torch.testing.assert_close(2 * scores[row, column], error)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_scored_by_its_unfolded_inputs(images, groups):
    torch.manual_seed(0)
    model = nn.Conv2d(2, 4, 2, stride=2, padding=1, groups=groups).double()
    inputs = torch.cat([x for x, _ in images.batches])
    scores = layerwise_obs(model, images, damping=0.1)["weight"]
    rows = nn.functional.unfold(inputs, 2, stride=2, padding=1).mT.reshape(-1, 8)
    for unit in range(4):
        group = unit * groups // 4
        part = rows[:, group * (8 // groups) : (group + 1) * (8 // groups)]
        moments = part.T @ part / len(part)
        moments += 0.1 * moments.diagonal().mean() * torch.eye(len(moments)).double()
        weights = model.weight[unit].detach().flatten()
        expected = weights**2 / (2 * torch.linalg.inv(moments).diagonal())
        torch.testing.assert_close(scores[unit].flatten(), expected)


def test_inputs_that_are_always_zero_make_a_layer_worthless():
    model = nn.Linear(3, 2)
    scores = layerwise_obs(model, ScoringData([(torch.zeros(4, 3), torch.zeros(1))]))
    assert not scores["weight"].any()


def test_targets_and_the_loss_are_not_looked_at(net, data):
    blind = ScoringData([(x, torch.zeros(1)) for x, _ in data.batches], loss=None)
    found = layerwise_obs(net, blind)
    assert all(torch.equal(s, found[n]) for n, s in layerwise_obs(net, data).items())


def test_what_cannot_be_scored_is_named(monkeypatch, net, data):
    with pytest.raises(ConfigError, match="layerwise_obs: damping -1; expected a number of 0 or"):
        layerwise_obs(net, data, damping=-1)
    with pytest.raises(ConfigError, match="of 3 weights has no inverse; raise the damping or give"):
        layerwise_obs(net, ScoringData([(torch.ones(1, 3).double(), torch.zeros(1))]), damping=0.0)
    monkeypatch.setattr(import_module("tersor.prune.criteria.layerwise_obs"), "INPUT_LIMIT", 3)
    scores = layerwise_obs(net, data)
    assert scores["0.weight"].any()
    with pytest.raises(ConfigError, match=r"cannot score '2.weight': a unit has 4 inputs, at most"):
        scores["2.weight"]

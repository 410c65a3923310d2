from importlib import import_module

import pytest
import torch
from torch import nn
from truths import half_squares, least_squares, total_loss

from tersor.core import MaskSet
from tersor.core.errors import ConfigError
from tersor.prune import CRITERIA
from tersor.prune.criteria import obs
from tersor.prune.criteria import obs as criterion
from tersor.prune.repair import obs as repair
from tersor.prune.scoring import ScoringData

TINY = 1e-8  # the damping moves scores by as much, relatively


@pytest.fixture
def regression():
    """Linear regression with correlated inputs, at its minimum, with an error that is left."""
    draw = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(12, 4, generator=draw).double() @ torch.randn(4, 4, generator=draw).double()
    )
    targets = torch.randn(12, 2, generator=draw).double()
    data = ScoringData([(inputs[:7], targets[:7]), (inputs[7:], targets[7:])], half_squares)
    model = nn.Linear(4, 2, bias=False).double()
    least_squares(model, data)
    return model, data


def refitted(data, output, column):
    """The least loss of one output without one input."""
    inputs = torch.cat([x for x, _ in data.batches])
    target = torch.cat([y for _, y in data.batches])[:, output]
    left = [c for c in range(inputs.shape[1]) if c != column]
    fit = torch.linalg.lstsq(inputs[:, left], target[:, None]).solution[:, 0]
    return (inputs[:, left] @ fit - target).square().sum().item() / (2 * len(inputs))


@pytest.mark.parametrize("block", ["row", "weight"])
def test_the_score_is_what_the_loss_rises_by_when_all_else_is_fitted_again(regression, block):
    model, data = regression
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    scores = obs(model, data, damping=TINY, block=block)["weight"]
    for output in range(2):
        residual = inputs @ model.weight[output].detach() - targets[:, output]
        least = residual.square().sum().item() / (2 * len(inputs))
        for column in range(4):
            rise = refitted(data, output, column) - least
            assert scores[output, column].item() == pytest.approx(rise, rel=1e-5)


@pytest.mark.parametrize("block", ["row", "weight"])
def test_the_repair_gives_the_fit_without_what_went(regression, block):
    model, data = regression
    before = total_loss(model, data)
    scores = obs(model, data, damping=TINY, block=block)["weight"]
    masks = MaskSet({"weight": torch.ones(2, 4, dtype=torch.bool)})
    masks["weight"][1, 2] = False
    repair(model, masks, data, damping=TINY, block=block)
    assert model.weight[1, 2] == 0
    assert total_loss(model, data) - before == pytest.approx(scores[1, 2].item(), rel=1e-5)


def test_in_rows_of_a_network_the_repair_raises_the_quadratic_by_the_score(net, data):
    # Truth from the Hessian of a softmax regression on the first layer's outputs.
    last = nn.Sequential(nn.Linear(3, 2)).double()
    inputs = torch.cat([x for x, _ in data.batches])
    scores = obs(last, data, damping=1e-3)["0.weight"]
    shares = last(inputs).softmax(1).detach()
    for row in range(2):
        bend = shares[:, row] * (1 - shares[:, row])
        curvature = (inputs.T * bend) @ inputs / len(inputs) + 1e-3 * torch.eye(3).double()
        weights = last[0].weight[row].detach()
        expected = weights**2 / (2 * torch.linalg.inv(curvature).diagonal())
        torch.testing.assert_close(scores[row], expected)


def test_blocks_of_a_convolution_are_its_filters(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(75, 3))
    model = model.double()
    scores = obs(model, images, damping=1e-3, curvature="fisher")["0.weight"]
    vectors = []
    for inputs, targets in images.batches:
        for index in range(len(inputs)):
            loss = images.loss(model(inputs[index : index + 1]), targets[index : index + 1])
            vectors.append(torch.autograd.grad(loss, model[0].weight)[0])
    vectors = torch.stack(vectors).view(5, 3, -1)
    for filter_ in range(3):
        curvature = vectors[:, filter_].T @ vectors[:, filter_] / 5 + 1e-3 * torch.eye(8).double()
        weights = model[0].weight[filter_].detach().flatten()
        expected = weights**2 / (2 * torch.linalg.inv(curvature).diagonal())
        torch.testing.assert_close(scores[filter_].flatten(), expected)


def test_a_weight_without_curvature_has_no_more_than_the_damping(net, data):
    net[2].weight.detach()[:, 1] = 0  # unit 1 of the first layer goes nowhere
    scores = obs(net, data, damping=1e-5)["0.weight"][1]
    torch.testing.assert_close(scores, 1e-5 * net[0].weight[1].detach() ** 2 / 2)


def test_chunks_of_blocks_give_what_all_at_once_give(net, data, monkeypatch):
    whole = obs(net, data)
    masks = MaskSet({n: s > s.median() for n, s in whole.items()})
    state = {n: t.clone() for n, t in net.state_dict().items()}
    repair(net, masks, data)
    together = [p.clone() for p in net.parameters()]
    net.load_state_dict(state)
    monkeypatch.setattr(import_module("tersor.prune.criteria.obs"), "_TOGETHER", 1)
    assert all(torch.equal(s, whole[n]) for n, s in obs(net, data).items())
    repair(net, masks, data)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), together, strict=True))


def test_what_is_too_large_is_named_when_it_is_asked_for(data):
    model = nn.Sequential(nn.Linear(3, 5000), nn.ReLU(), nn.Linear(5000, 2)).double()
    one = ScoringData([(data.batches[0][0][:1], data.batches[0][1][:1])])
    scores = obs(model, one)
    assert scores["0.weight"].shape == (5000, 3)
    with pytest.raises(
        ConfigError,
        match=r"criterion 'obs' cannot score '2.weight': its blocks have 5,000 weights, at most "
        r"4,096.*ignore=\['2.weight'\]",
    ):
        scores["2.weight"]
    with pytest.raises(
        ConfigError, match=r"repair 'obs' cannot change '2.weight': its blocks have"
    ):
        repair(model, MaskSet({"2.weight": torch.zeros(2, 5000, dtype=torch.bool)}), one)


def test_too_many_vectors_are_named_and_the_model_is_as_it_was(net, data, monkeypatch):
    monkeypatch.setattr(import_module("tersor.prune.criteria.obs"), "VECTOR_LIMIT", 30)
    net.train()
    with pytest.raises(ConfigError, match="vectors of sample 2 bring them to 40 numbers, at most"):
        obs(net, data, curvature="fisher")
    assert net.training


def test_errors_name_what_is_wrong(net, data):
    with pytest.raises(ConfigError, match="obs: damping 0; expected a number above 0"):
        obs(net, data, damping=0)
    with pytest.raises(ConfigError, match="obs: block 'filter': known: row, weight"):
        obs(net, data, block="filter")
    with pytest.raises(ConfigError, match="obs: curvature 'exact': known: fisher, gauss_newton"):
        obs(net, data, curvature="exact")
    assert CRITERIA["obs"] is criterion

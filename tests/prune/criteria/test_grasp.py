import dataclasses

import pytest
import torch
from torch import nn
from truths import close, slopes

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune.criteria import grasp
from tersor.prune.scoring import ScoringData


def flow(model, data, temperature):
    """|g|**2 of the mean loss over all samples."""
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    loss = data.loss(model(inputs) / temperature, targets)
    found = torch.autograd.grad(loss, [w.parameter for w in prunable(model)])
    return sum(g.square().sum() for g in found).item()


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_what_the_gradient_flow_loses_to_first_order(net, data, temperature):
    found = slopes(lambda: flow(net, data, temperature), net)
    expected = {w.name: w.parameter.detach() * found[w.name] / 2 for w in prunable(net)}
    scale = max(e.abs().max().item() for e in expected.values())
    close(grasp(net, data, temperature=temperature), expected, rtol=1e-4, atol=1e-6 * scale)


def test_the_temperature_is_200_and_changes_the_scores(net, data):
    close(grasp(net, data), dict(grasp(net, data, temperature=200.0)))
    ratio = grasp(net, data, temperature=1.0)["0.weight"] / grasp(net, data)["0.weight"]
    assert ratio.max() - ratio.min() > 1e-3 * ratio.abs().mean()


def test_two_halves_give_what_all_the_data_gives(net, data):
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    halves = ScoringData([(inputs[:3], targets[:3]), (inputs[3:], targets[3:])])
    whole = dict(grasp(net, ScoringData([(inputs, targets)])))
    close(grasp(net, halves), whole, atol=1e-15)


def test_a_loss_without_curvature_scores_zero(data):
    linear = dataclasses.replace(data, loss=lambda outputs, targets: outputs.mean())
    model = nn.Linear(3, 2).double()
    assert not grasp(model, linear)["weight"].any()


@pytest.mark.parametrize(
    "model",
    [
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), nn.BatchNorm1d(4)),
    ],
    ids=["attention", "convolution"],
)
def test_layers_with_fused_kernels_have_second_derivatives(model):
    inputs = (
        torch.ones(2, 3, 4)
        if isinstance(model, nn.TransformerEncoderLayer)
        else torch.ones(2, 3, 6)
    )
    data = ScoringData([(inputs, inputs)], loss=lambda outputs, targets: outputs.pow(3).mean())
    scores = grasp(model, data)
    assert all(torch.isfinite(scores[name]).all() for name in scores)
    assert any(scores[name].any() for name in scores)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_none_is_an_error(net, data, temperature):
    with pytest.raises(ConfigError, match=f"grasp: temperature {temperature}; expected"):
        grasp(net, data, temperature=temperature)

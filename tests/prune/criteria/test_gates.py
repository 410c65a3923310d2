import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from truths import total_loss, without

from conftest import randomised
from tersor.core.errors import ConfigError
from tersor.prune import CRITERIA
from tersor.prune.criteria import fisher_gate, skeletonization, taylor_gate
from tersor.prune.criteria.gates import linear_error
from tersor.prune.scoring import ScoringData


@pytest.fixture
def convolutional():
    return randomised(
        nn.Sequential(
            *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            nn.Linear(16, 3),
        )
    )


def products(model, data, layer, loss=None):
    """<h, dL_n/dh> of each sample alone and each unit, and the positions: (N, units)."""
    kept, found = {}, []
    handle = layer.register_forward_hook(lambda m, args, output: kept.update(output=output))
    model.eval()
    for inputs, targets in data.batches:
        for index in range(len(inputs)):
            one = inputs[index : index + 1], targets[index : index + 1]
            value = (loss or data.loss)(model(one[0]), one[1])
            (slope,) = torch.autograd.grad(value, kept["output"])
            each = (kept["output"] * slope).detach()
            found.append(each.flatten(2).sum(2)[0] if each.dim() > 2 else each[0])
    handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("layer", [0, 5])
def test_scores_are_those_of_outputs_times_their_gradients(convolutional, images, layer):
    gates = products(convolutional, images, convolutional[layer])
    name = f"{layer}.weight"
    theta = (gates / (16 if layer == 0 else 1)).abs().mean(0)
    expected = {
        "fisher_gate": gates.square().mean(0) / 2,
        "taylor_gate": theta / theta.norm(),
        "skeletonization": -products(
            convolutional, images, convolutional[layer], linear_error
        ).mean(0),
    }
    for criterion, units in expected.items():
        score = CRITERIA[criterion](convolutional, images)[name]
        wanted = units.view(-1, *[1] * (score.dim() - 1)).expand_as(score)
        torch.testing.assert_close(score, wanted)


def test_behind_a_relu_and_pooling_the_gate_is_the_same(convolutional, images):
    before = products(convolutional, images, convolutional[1])
    behind = products(convolutional, images, convolutional[3])
    torch.testing.assert_close(before, behind)


def test_with_one_sample_fisher_is_half_the_square_of_taylor(convolutional, images):
    one = ScoringData([(x[:1], y[:1]) for x, y in images.batches])
    taylor = taylor_gate(convolutional, one)["0.weight"][:, 0, 0, 0]
    fisher = fisher_gate(convolutional, one)["0.weight"][:, 0, 0, 0]
    scale = (2 * fisher).sqrt()
    torch.testing.assert_close(taylor, scale / scale.norm())


def test_a_unit_without_effect_scores_zero(convolutional, images):
    convolutional[5].weight.detach().view(3, 4, 4)[:, 2] = 0
    for criterion in (taylor_gate, fisher_gate, skeletonization):
        score = criterion(convolutional, images)["0.weight"]
        assert not score[2].any()
        assert score.any()


def test_relevance_is_the_exact_change_where_all_is_linear():
    # Targets above all outputs: the linear error is linear in the outputs, and they in the gates.
    draw = torch.Generator().manual_seed(0)
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    inputs = torch.randn(6, 3, generator=draw).double()
    data = ScoringData([(inputs, torch.full((6, 2), 100.0).double())], linear_error)
    scores = skeletonization(model, data)["0.weight"][:, 0]
    before = total_loss(model, data)
    for unit in range(4):
        rows = torch.arange(3) + 3 * unit
        model[0].bias.detach()[unit], old = 0, model[0].bias[unit].item()
        change = without(model[0].weight, rows, lambda: total_loss(model, data)) - before
        model[0].bias.detach()[unit] = old
        assert scores[unit].item() == pytest.approx(change)


def test_relevance_follows_the_batches_with_decay(net, data):
    first, second = (
        skeletonization(net, ScoringData([batch]))["0.weight"] for batch in data.batches
    )
    torch.testing.assert_close(skeletonization(net, data)["0.weight"], 0.8 * first + 0.2 * second)
    torch.testing.assert_close(skeletonization(net, data, decay=0.0)["0.weight"], second)


def test_the_linear_error_by_hand():
    outputs = torch.tensor([[1.0, -1.0], [0.0, 3.0]])
    assert linear_error(outputs, torch.tensor([[0.0, 0.0], [1.0, 1.0]])).item() == 2.5
    classes = linear_error(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))
    assert classes.item() == 1.0  # |1 - 1/2| + |0 - 1/2|


def test_the_first_order_ranks_units_as_leaving_each_out_does():
    torch.manual_seed(0)
    inputs = torch.randn(200, 5)
    targets = (inputs[:, 0] + inputs[:, 1] * inputs[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    data = ScoringData([(inputs, targets)])
    before = total_loss(model, data)
    columns = [torch.tensor([u, 24 + u]) for u in range(24)]
    after = [without(model[2].weight, c, lambda: total_loss(model, data)) for c in columns]
    oracle = [abs(loss - before) for loss in after]
    for criterion in (taylor_gate, fisher_gate):
        scores = criterion(model, data)["0.weight"][:, 0]
        assert spearmanr(scores, oracle).statistic > 0.5
    assert abs(spearmanr(CRITERIA["random"](model, data)["0.weight"][:, 0], oracle).statistic) < 0.5


def test_a_layer_over_tokens_has_a_gate_for_each_sample_not_for_each_token():
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Flatten()))
    draw = torch.Generator().manual_seed(0)
    data = ScoringData([(torch.randn(4, 5, 3, generator=draw).double(), torch.arange(4))])
    kept = {}
    handle = model[0].register_forward_hook(lambda m, a, output: kept.update(output=output))
    gates = []
    for inputs, targets in zip(*data.batches[0], strict=True):
        loss = data.loss(model(inputs[None]), targets[None])
        (slope,) = torch.autograd.grad(loss, kept["output"])
        gates.append((slope * kept["output"]).sum((0, 1)))
    handle.remove()
    expected = torch.stack(gates).square().mean(0).detach() / 2
    torch.testing.assert_close(fisher_gate(model, data)["0.weight"][:, 0], expected)


def test_layers_that_are_tied_share_their_gates(data):
    model = randomised(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)))
    model[2].weight = model[0].weight
    gates = sum(products(model, data, model[i]) for i in (0, 2))
    expected = gates.square().mean(0) / 2
    torch.testing.assert_close(fisher_gate(model, data)["0.weight"][:, 0], expected)


def test_what_cannot_be_scored_is_named():
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4, batch_first=True), "out": nn.Linear(4, 2)})
    model["unused"] = nn.Linear(2, 2)
    model.forward = lambda inputs: model["out"](model["lstm"](inputs)[0][:, -1])
    data = ScoringData([(torch.ones(2, 5, 3), torch.zeros(2, dtype=torch.long))])
    for criterion in (taylor_gate, fisher_gate, skeletonization):
        scores = criterion(model, data)
        assert scores["out.weight"].any()
        name = criterion.__name__
        with pytest.raises(ConfigError, match=f"'{name}' cannot score 'lstm.weight_ih_l0': gates"):
            scores["lstm.weight_ih_l0"]
        with pytest.raises(ConfigError, match=f"'{name}' cannot score 'unused.weight': its layer"):
            scores["unused.weight"]
    with pytest.raises(ConfigError, match="skeletonization: decay 1; expected 0 <= decay < 1"):
        skeletonization(model, data, decay=1)


def test_an_axis_that_is_not_the_sample_is_an_error(data):
    turned = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0, 0), nn.Linear(4, 2)).double()
    turned[1].forward = lambda hidden: hidden.repeat(2, 1)
    with pytest.raises(ConfigError, match=r"layer of '2.weight' has 8 places for 4 samples"):
        fisher_gate(turned, data)

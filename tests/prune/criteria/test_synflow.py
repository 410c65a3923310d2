import itertools
import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import synflow
from tersor.prune.scoring import ScoringData

NOTHING = ScoringData([(torch.full((2, 6), torch.nan), None)])


@pytest.fixture
def net():
    torch.manual_seed(0)
    sizes = (6, 8, 5, 3)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def test_the_score_is_the_share_of_all_paths_through_a_weight(net):
    # Brute force: the sum of products over all paths from inputs to outputs.
    a, b, c = (net[i].weight.detach().double().abs() for i in (0, 2, 4))
    expected = torch.zeros_like(b)
    for i in range(6):
        for j in range(8):
            for k in range(5):
                for o in range(3):
                    expected[k, j] += a[j, i] * b[k, j] * c[o, k]
    torch.testing.assert_close(synflow(net, NOTHING)["2.weight"], expected)


def test_each_layer_carries_the_whole_flow_and_no_value_is_looked_at(net):
    scores = synflow(net, NOTHING)
    sums = [scores[name].sum().item() for name in scores]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert sums[0] > 0


def test_what_flows_into_a_unit_flows_out_of_it(net):
    scores = synflow(net, NOTHING)
    torch.testing.assert_close(scores["0.weight"].sum(1), scores["2.weight"].sum(0))
    torch.testing.assert_close(scores["2.weight"].sum(1), scores["4.weight"].sum(0))


def test_many_rounds_keep_a_path_where_one_round_empties_a_layer():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(6, 60, bias=False),
        nn.ReLU(),
        nn.Linear(60, 60, bias=False),
        nn.ReLU(),
        nn.Linear(60, 2, bias=False),
    )
    total = sum(p.numel() for p in net.parameters())
    density = 8 / total
    with pytest.raises(ConfigError, match=r"'\d.weight' empty"):
        prune_(net, density, criterion="synflow", data=NOTHING)
    masks, _ = prune_(net, density, criterion="synflow", data=NOTHING, rounds=40)
    assert masks.kept == 8
    assert net(torch.ones(1, 6)).any()


def test_batch_normalisation_is_in_eval_mode_and_keeps_its_buffers(net):
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    before = {n: t.clone() for n, t in model.state_dict().items()}
    data = ScoringData([(torch.zeros(1, 2, 4, 4), None)])
    assert all(s.dtype == torch.double for s in synflow(model, data).values())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    # A negative mean has the modulus of a positive one.
    flipped = synflow(model, data)["0.weight"]
    model[1].running_mean.fill_(-50.0)
    negative = synflow(model, data)["0.weight"]
    model[1].running_mean.fill_(50.0)
    assert torch.equal(synflow(model, data)["0.weight"], negative)
    assert not torch.equal(flipped, negative)


def test_a_deep_and_wide_net_does_not_overflow():
    layers = [nn.Linear(100, 100, bias=False) for _ in range(40)]
    for layer in layers:
        layer.weight.detach().fill_(1.0)
    scores = synflow(nn.Sequential(*layers), ScoringData([(torch.zeros(1, 100), None)]))
    assert scores["0.weight"].sum().item() == pytest.approx(math.pow(100, 41), rel=1e-9)


def test_errors_say_what_to_do(net):
    with pytest.raises(ConfigError, match=r"criterion 'synflow' takes the shape.*zeros will do"):
        synflow(net, ScoringData())
    embedding = nn.Sequential(nn.Embedding(3, 6), net)
    with pytest.raises(
        ConfigError, match=r"'synflow' feeds ones, but the inputs are of torch.int64"
    ):
        synflow(embedding, ScoringData([(torch.zeros(1, 2, dtype=torch.long), None)]))
    net.double()
    for index in (0, 2, 4):
        net[index].weight.detach().fill_(1e150)
    with pytest.raises(ConfigError, match="for an input of ones sum to inf in float64"):
        synflow(net, NOTHING)

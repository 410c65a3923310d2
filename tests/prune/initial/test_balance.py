import copy
import itertools

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune import CRITERIA, prune_
from tersor.prune.initial import collapsed, critical_density, initialise_, layer_balance
from tersor.prune.scoring import ScoringData


def tanh_net(first: object) -> nn.Sequential:
    """Seven layers of width 100, as in the experiment that the thresholds below are from."""
    torch.manual_seed(0)
    sides = [100] * 7
    layers = [m for a, b in itertools.pairwise(sides) for m in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(100, 10))
    initialise_(model, first)
    return model


def data() -> ScoringData:
    torch.manual_seed(1)
    return ScoringData([(torch.randn(100, 100), torch.arange(100) % 10)])


def test_the_alarm_fires_for_a_deep_tanh_network_with_weights_of_variance_one():
    report = layer_balance(tanh_net(nn.init.normal_), 0.1, data=data())
    densities = [row["density"] for row in report.rows]
    assert densities[0] > 0.3
    assert densities[-3:] == [0, 0, 0]
    assert report.summary["collapsed layers"] >= 3
    assert len(report.notes) == report.summary["collapsed layers"]
    assert "nothing would be left of '12.weight' at density 0.1" in report.notes[-1]


@pytest.mark.parametrize("initialiser", ["orthogonal", "variance"])
def test_it_does_not_fire_where_first_weights_keep_the_scale(initialiser):
    from tersor.prune.initial import variance_scaling_

    ways = {"orthogonal": nn.init.orthogonal_, "variance": variance_scaling_}
    report = layer_balance(tanh_net(ways[initialiser]), 0.1, data=data())
    densities = [row["density"] for row in report.rows]
    assert all(0.05 < density < 0.2 for density in densities[:-1])
    assert 0.3 < densities[-1] < 0.6
    assert report.summary["collapsed layers"] == 0
    assert not report.notes


def test_the_balance_is_what_prune_keeps_and_leaves_the_model():
    model = tanh_net(nn.init.orthogonal_)
    before = copy.deepcopy(model.state_dict())
    report = layer_balance(model, 0.1, data=data(), ignore="re:0")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    masks, _ = prune_(model, 0.1, criterion="snip", data=data(), ignore="re:0")
    assert {r["name"]: r["kept"] for r in report.rows} == {
        n: int(m.sum()) for n, m in masks.items()
    }
    assert report.summary["kept"] == masks.kept == round(0.1 * 51_000)


def test_shares_and_means_are_those_of_the_scores():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    nn.init.constant_(model[0].weight, -2.0)
    nn.init.constant_(model[1].weight, 1.0)
    rows = layer_balance(model, 0.5, criterion="magnitude").rows
    assert [row["share of saliency"] for row in rows] == [12 / 15, 3 / 15]
    assert [row["mean score"] for row in rows] == [2.0, 1.0]


def lopsided() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 10).view(3, 3))
        model[1].weight.copy_(torch.tensor([[3.5, 0.1, 0.1], [0.1, 0.1, 0.1]]))
    return model


def test_the_critical_density_is_where_the_last_weight_of_a_layer_would_go():
    model = lopsided()
    report = critical_density(model, criterion="magnitude")
    # 3.5 is the seventh largest of 15: nine to four are above it.
    assert report.summary == {"kept": 7, "density": 7 / 15, "compression": 15 / 7, "rounds": 1}
    assert "'1.weight' empty" in report.notes[0]
    assert torch.equal(model[0].weight, lopsided()[0].weight)
    prune_(lopsided(), 7 / 15)
    with pytest.raises(ConfigError, match=r"'1.weight' empty"):
        prune_(lopsided(), 6 / 15)


def test_synflow_in_rounds_goes_as_far_as_there_are_layers_and_in_one_it_does_not():
    torch.manual_seed(0)
    sides = [8, 8, 8, 8, 4]
    layers = [(nn.Linear(a, b, bias=False), nn.ReLU()) for a, b in itertools.pairwise(sides)]
    model = nn.Sequential(*itertools.chain(*layers))
    example = [(torch.ones(1, 8), torch.zeros(1, dtype=torch.long))]
    found = [
        critical_density(model, criterion="synflow", rounds=rounds, data=example).summary["kept"]
        for rounds in (1, 10)
    ]
    assert found[0] > 12
    assert found[1] == 4  # one weight a layer: no method can do with fewer


def test_what_is_wrong_with_the_criterion_is_not_taken_for_a_collapse():
    with pytest.raises(ConfigError, match="'snip' looks at data, and there is none"):
        critical_density(lopsided(), criterion="snip")
    with pytest.raises(ConfigError, match="'snip' looks at data, and there is none"):
        layer_balance(lopsided(), 0.5)


def test_collapsed_names_the_masks_that_keep_nothing():
    masks = MaskSet(
        {"a": torch.zeros(3).bool(), "b": torch.ones(1).bool(), "c": torch.ones(0).bool()}
    )
    assert collapsed(masks) == ["a"]
    assert collapsed(MaskSet({})) == []


@pytest.mark.parametrize("name", ["random", "magnitude", "snip", "synflow"])
def test_every_named_criterion_can_be_balanced(name):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    batch = [(torch.randn(9, 4), torch.arange(9) % 3)]
    report = layer_balance(model, 0.5, criterion=CRITERIA[name], data=batch)
    assert sum(row["kept"] for row in report.rows) == report.summary["kept"] == 21
    assert sum(row["share of saliency"] for row in report.rows) == pytest.approx(1)

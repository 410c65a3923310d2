import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.prune import CRITERIA, prune_
from tersor.prune.criteria import (
    magnitude,
    magnitude_over_deviation,
    magnitude_over_norm,
    magnitude_share,
    random,
)
from tersor.prune.scoring import ScoringData


def test_random_scores_are_uniform_and_the_seed_and_the_name_decide_them():
    model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 200))
    scores = random(model, ScoringData(seed=3))
    for score in scores.values():
        expected = torch.linspace(0, 1, score.numel())
        assert (score.flatten().sort().values - expected).abs().max() < 0.02
    first, second = scores["0.weight"].flatten(), scores["1.weight"].flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.03
    larger = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 5))
    assert torch.equal(random(larger, ScoringData(seed=3))["0.weight"], scores["0.weight"])
    assert not torch.equal(random(model, ScoringData(seed=4))["0.weight"], scores["0.weight"])


def test_magnitude_is_the_distance_from_zero():
    model = nn.Linear(5, 1)
    model.weight.detach().copy_(torch.tensor([[-3.0, 2.0, -0.0, 1e-30, -1e30]]))
    assert magnitude(model)["weight"].tolist() == [[3.0, 2.0, 0.0, *model.weight[0, 3:].abs()]]


@given(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=8), st.integers(1, 5))
def test_pruning_by_magnitude_is_the_nearest_sparse_model(values, count):
    model = nn.Linear(len(values), 1, bias=False)
    model.weight.detach().copy_(torch.tensor([values]))
    before = model.weight.detach().double().flatten()
    prune_(model, count / len(values))
    distance = (model.weight.detach().double().flatten() - before).square().sum().item()
    best = min(
        sum(before[i].item() ** 2 for i in range(len(values)) if i not in kept)
        for kept in itertools.combinations(range(len(values)), count)
    )
    assert distance == pytest.approx(best, abs=1e-12)


def two_layers():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)).double()
    model[0].weight.detach().copy_(torch.tensor([[3.0, -4.0]]))
    model[1].weight.detach().copy_(torch.tensor([[1.0], [7.0]]))
    return model


def test_normalised_magnitudes_by_hand():
    model = two_layers()
    assert magnitude_over_norm(model)["0.weight"].tolist() == [[0.6, 0.8]]
    assert magnitude_share(model)["1.weight"].flatten().tolist() == [1 / 15, 7 / 15]
    # Mean 4, deviation 3.
    assert magnitude_over_deviation(model)["1.weight"].flatten().tolist() == [1 / 3, 7 / 3]


@pytest.mark.parametrize("name", ["magnitude_over_norm", "magnitude_over_deviation"])
def test_what_is_normalised_by_layer_does_not_see_a_layers_scale(name):
    model = two_layers()
    before = CRITERIA[name](model, ScoringData())
    before = {n: before[n] for n in before}
    model[0].weight.detach().mul_(1024)
    after = CRITERIA[name](model, ScoringData())
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert not torch.equal(magnitude(model)["0.weight"], before["0.weight"])


def test_shares_sum_to_one_and_keep_the_order_of_magnitudes():
    model = two_layers()
    shares, sizes = magnitude_share(model), magnitude(model)
    flat = torch.cat([shares[n].flatten() for n in shares])
    assert math.isclose(flat.sum(), 1)
    assert torch.equal(flat.argsort(), torch.cat([sizes[n].flatten() for n in sizes]).argsort())


@pytest.mark.parametrize("value", [0.0, 2.0])
@pytest.mark.parametrize(
    "criterion", [magnitude_over_norm, magnitude_over_deviation, magnitude_share]
)
def test_tensors_without_spread_or_size_have_finite_scores(criterion, value):
    model = nn.Linear(2, 2)
    model.weight.detach().fill_(value)
    scores = criterion(model)["weight"]
    assert torch.isfinite(scores).all()
    assert bool((scores > 0).all()) == (value > 0)


def test_sixteen_bits_do_not_overflow_in_a_norm():
    model = nn.Linear(400, 400).half()
    model.weight.detach().fill_(300.0)  # the sum of squares is 1.4e10, the largest half 65,504
    assert magnitude_over_norm(model)["weight"].max().item() == pytest.approx(1 / 400)

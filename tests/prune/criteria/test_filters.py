import pytest
import torch
from torch import nn

from tersor.prune import prune_
from tersor.prune.criteria import filter_l1, filter_l2, geometric_median


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ConvTranspose2d(4, 6, 2, groups=2)).double()


def test_norms_are_those_of_numpy_over_each_filter(model):
    values = model[0].weight.detach().numpy()
    for criterion, power in ((filter_l1, 1), (filter_l2, 2)):
        scores = criterion(model)["0.weight"]
        for unit in range(5):
            norm = (abs(values[unit]) ** power).sum() ** (1 / power)
            assert scores[unit].flatten().tolist() == pytest.approx([norm] * 18)


def test_a_transposed_convolution_has_its_filters_along_the_second_axis(model):
    values = model[1].weight.detach()  # (4, 3, 2, 2): output 3 g + j takes inputs 2 g and 2 g + 1
    scores = filter_l1(model)["1.weight"]
    for group in range(2):
        for unit in range(3):
            part = slice(2 * group, 2 * group + 2), unit
            expected = values[part].abs().sum().expand(2, 2, 2)
            torch.testing.assert_close(scores[part], expected)


def test_the_geometric_median_by_brute_force(model):
    units = model[0].weight.detach().flatten(1)
    scores = geometric_median(model)["0.weight"].flatten(1)
    for unit in range(5):
        expected = sum((units[unit] - other).square().sum().sqrt() for other in units)
        torch.testing.assert_close(scores[unit], expected.expand(18))


def test_a_filter_between_the_others_goes_and_not_the_smallest():
    model = nn.Linear(1, 5, bias=False)
    model.weight.detach().copy_(torch.tensor([[10.0], [9.0], [8.0], [9.5], [1.0]]))
    masks, _ = prune_(model, 0.8, criterion="geometric_median", pattern="row")
    assert masks["weight"].flatten().tolist() == [True, False, True, True, True]
    masks, _ = prune_(model, 0.6, criterion="filter_l1", pattern="row", masks=masks)
    assert masks["weight"].flatten().tolist() == [True, False, True, True, False]


def test_many_units_are_compared_in_parts(monkeypatch):
    torch.manual_seed(0)
    model = nn.Linear(3, 300)
    whole = geometric_median(model)["weight"]
    monkeypatch.setitem(geometric_median.__globals__, "_ROWS", 7)
    torch.testing.assert_close(geometric_median(model)["weight"], whole)


def test_twins_are_at_no_distance_from_each_other():
    model = nn.Linear(50, 30)
    torch.manual_seed(0)  # by matrix products some of these would be at 4, not at 0
    model.weight.detach().copy_(torch.randn(1, 50) * 1000)
    assert not geometric_median(model)["weight"].any()


def test_a_row_of_c_times_the_size_scores_c_times_as_much(model):
    before = filter_l1(model)["0.weight"][1]
    model[0].weight.detach()[1] *= -3
    torch.testing.assert_close(filter_l1(model)["0.weight"][1], 3 * before)

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import since
from tersor.prune.scoring import ScoringData

DATA = ScoringData()


@pytest.fixture
def model():
    model = nn.Linear(4, 1, bias=False)
    model.weight.detach().copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5]]))
    return model


def scores(model, initial):
    found = since({"weight": torch.tensor([initial])})
    return {name: criterion(model, DATA)["weight"][0].tolist() for name, criterion in found.items()}


def test_each_criterion_by_hand(model):
    assert scores(model, [2.0, 2.0, -1.0, 1.5]) == {
        # The mean magnitudes are 6.5 / 4 both, so one scale.
        "large_final": [1.0, 2.0, 3.0, 0.5],
        "small_final": [-1.0, -2.0, -3.0, -0.5],
        "large_init": [2.0, 2.0, 1.0, 1.5],
        "small_init": [-2.0, -2.0, -1.0, -1.5],
        "large_init_large_final": [1.0, 2.0, 1.0, 0.5],
        "small_init_small_final": [-2.0, -2.0, -3.0, -1.5],
        "magnitude_increase": [-1.0, 0.0, 2.0, -1.0],
        "movement_distance": [1.0, 4.0, 4.0, 1.0],
        "large_final_same_sign": [1.0, 0.0, 0.0, 0.5],
    }


def test_from_zero_increase_and_movement_are_the_final_magnitude(model):
    found = scores(model, [0.0, 0.0, 0.0, 0.0])
    assert found["magnitude_increase"] == found["movement_distance"] == found["large_final"]
    assert found["large_init_large_final"] == [0.0] * 4


def test_the_scale_of_the_first_values_does_not_matter_where_both_are_compared(model):
    one, two = (scores(model, [s * v for v in (2.0, 1.0, 1.0, 3.0)]) for s in (1, 8))
    for name in ("large_init_large_final", "small_init_small_final"):
        assert one[name] == two[name]


def test_the_first_values_are_kept_as_they_were(model):
    criterion = since(model.state_dict())["movement_distance"]
    before = model.weight.detach().clone()
    model.weight.detach().add_(torch.tensor([[1.0, 2.0, 4.0, 3.0]]))
    masks, _ = prune_(model, 0.5, criterion=criterion)
    assert masks["weight"].tolist() == [[False, False, True, True]]
    assert torch.equal(before, torch.tensor([[1.0, -2.0, 3.0, 0.5]]))


@pytest.mark.parametrize(
    ("initial", "found"),
    [({}, "is not there"), ({"weight": torch.zeros(2)}, r"has the shape \(2,\)")],
)
def test_missing_first_values_are_named(model, initial, found):
    criterion = since(initial)["large_init"]
    with pytest.raises(
        ConfigError, match=rf"'large_init': among the initial values 'weight' {found}; expected.*4"
    ):
        criterion(model, DATA)["weight"]

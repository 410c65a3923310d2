import pytest
import torch
from torch import nn

from tersor.prune import CRITERIA, magnitude
from tersor.prune.scoring import ScoringData

DATA = ScoringData([(torch.ones(2, 1, 3, 3), torch.tensor([0, 1]))])


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))


def test_magnitude_is_the_distance_from_zero():
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-3.0, 2.0, -0.0, 1e-30, -1e30]]))
    assert magnitude(model)["weight"].tolist() == [[3.0, 2.0, 0.0, *model.weight[0, 3:].abs()]]


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_every_weight_in_its_shape_and_leaves_the_model(name, net):
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    scores = CRITERIA[name](net, DATA)
    assert {n: s.shape for n, s in scores.items()} == {"0.weight": (2, 1, 3, 3), "2.weight": (3, 2)}
    assert all(s.is_floating_point() and not s.requires_grad for s in scores.values())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all((p.grad == 1).all() for p in net.parameters())

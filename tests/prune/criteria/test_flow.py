import pytest
import torch
from torch import nn
from truths import without

from conftest import randomised
from tersor.core.errors import ConfigError
from tersor.prune.criteria import lookahead, nisp
from tersor.prune.scoring import ScoringData

VECTORS = ScoringData([(torch.full((2, 3), torch.nan), torch.zeros(2))])
IMAGES = ScoringData([(torch.full((2, 2, 6, 6), torch.nan), torch.zeros(2))])


def product(model):
    """The product of the weights of a net of linear layers."""
    found = torch.eye(model[0].in_features).double()
    for layer in model:
        if isinstance(layer, nn.Linear):
            found = layer.weight.detach() @ found
    return found


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_lookahead_is_what_the_product_of_three_layers_changes_by(activation):
    model = randomised(
        nn.Sequential(
            *(nn.Linear(3, 4), activation(), nn.Linear(4, 5), activation(), nn.Linear(5, 2))
        )
    )
    before, weight = product(model), model[2].weight
    changes = [
        without(weight, i, lambda: (product(model) - before).norm().item())
        for i in range(weight.numel())
    ]
    assert lookahead(model, VECTORS)["2.weight"].flatten().tolist() == pytest.approx(changes)


def test_without_a_layer_on_one_side_the_other_decides():
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    a, b = (model[i].weight.detach() for i in (0, 2))
    scores = lookahead(model, VECTORS)
    torch.testing.assert_close(scores["0.weight"], a.abs() * b.norm(dim=0)[:, None])
    torch.testing.assert_close(scores["2.weight"], b.abs() * a.norm(dim=1))
    alone = nn.Linear(3, 2).double()
    torch.testing.assert_close(lookahead(alone, VECTORS)["weight"], alone.weight.detach().abs())


@pytest.mark.parametrize("pooling", [nn.MaxPool2d, nn.AvgPool2d])
def test_norms_reach_through_pooling_flattening_and_batch_normalisation(pooling):
    model = randomised(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            pooling(2),
            nn.Conv2d(4, 6, 2, groups=2),
            nn.Flatten(),
            nn.Linear(6 * 4, 2),
        )
    )
    model[1].running_var.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    scale = model[1].weight.detach().abs() / (model[1].running_var + model[1].eps).sqrt()
    a, b, c = (model[i].weight.detach() for i in (0, 4, 6))
    scores = lookahead(model, IMAGES)
    # Channels 0 and 1 of the first convolution go into filters 0 to 2 of the second.
    out = torch.stack([b[3 * (k // 2) : 3 * (k // 2) + 3, k % 2].norm() for k in range(4)])
    into = a.flatten(1).norm(dim=1)
    torch.testing.assert_close(scores["0.weight"], a.abs() * (scale * out).view(4, 1, 1, 1))
    behind = c.view(2, 6, 4).transpose(0, 1).flatten(1).norm(dim=1)
    for filter_ in range(6):
        before = (scale * into)[2 * (filter_ // 3) :][:2].view(2, 1, 1)
        expected = b[filter_].abs() * before * behind[filter_]
        torch.testing.assert_close(scores["4.weight"][filter_], expected)
    torch.testing.assert_close(
        scores["6.weight"], c.abs() * b.flatten(1).norm(dim=1).repeat_interleave(4)
    )


def test_a_transposed_convolution_has_neighbours_too():
    up = nn.ConvTranspose2d(2, 4, 2, groups=2, stride=2)
    model = randomised(nn.Sequential(up, nn.ReLU(), nn.Conv2d(4, 1, 1)))
    a, b = (model[i].weight.detach() for i in (0, 2))
    scores = lookahead(model, IMAGES)
    torch.testing.assert_close(
        scores["0.weight"],
        a.abs() * b[0].abs().view(2, 2, 1, 1),  # (in, out / groups, *)
    )
    into = a.flatten(2).norm(dim=2).view(4)
    torch.testing.assert_close(scores["2.weight"], b.abs() * into.view(1, 4, 1, 1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs):
        hidden = torch.relu(self.first(inputs))
        return self.last(hidden + torch.relu(self.inside(hidden)))


def test_in_a_residual_net_all_neighbours_count_together():
    model = randomised(Residual())
    first, inside, last = (m.weight.detach() for m in (model.first, model.inside, model.last))
    scores = lookahead(model, VECTORS)
    behind = (inside.square().sum(0) + last.square().sum(0)).sqrt()
    before = (first.square().sum(1) + inside.square().sum(1)).sqrt()
    torch.testing.assert_close(scores["first.weight"], first.abs() * behind[:, None])
    torch.testing.assert_close(scores["last.weight"], last.abs() * before)
    one_side = inside.abs() * first.norm(dim=1)
    torch.testing.assert_close(scores["inside.weight"], one_side * last.norm(dim=0)[:, None])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_nisp_hands_importance_back_layer_by_layer(activation):
    model = randomised(
        nn.Sequential(
            *(nn.Linear(3, 4), activation(), nn.Linear(4, 5), activation(), nn.Linear(5, 2))
        )
    )
    b, c = (model[i].weight.detach().abs() for i in (2, 4))
    scores = nisp(model, VECTORS)
    importance = torch.ones(2).double()
    torch.testing.assert_close(scores["4.weight"], importance[:, None].expand(2, 5))
    importance = c.T @ importance
    torch.testing.assert_close(scores["2.weight"], importance[:, None].expand(5, 4))
    importance = b.T @ importance
    torch.testing.assert_close(scores["0.weight"], importance[:, None].expand(4, 3))


def test_nisp_of_a_filter_is_the_sum_over_its_positions():
    model = randomised(
        nn.Sequential(
            *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
            nn.Linear(12, 2),
        )
    )
    model[1].running_mean.fill_(100.0)  # what is subtracted has no part in it
    scale = model[1].weight.detach().abs() / (1 + model[1].eps) ** 0.5
    expected = model[5].weight.detach().abs().view(2, 3, 4).sum((0, 2)) * scale
    found = nisp(model, IMAGES)["0.weight"]
    torch.testing.assert_close(found, expected.view(3, 1, 1, 1).expand_as(found))


def test_nisp_adds_up_what_comes_from_all_neighbours():
    model = randomised(Residual())
    last, inside = model.last.weight.detach().abs(), model.inside.weight.detach().abs()
    found = nisp(model, VECTORS)["first.weight"][:, 0]
    torch.testing.assert_close(found, last.sum(0) + inside.T @ last.sum(0))


def test_the_model_and_its_buffers_are_as_they_were():
    model = randomised(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten()))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for criterion in (nisp, lookahead):
        criterion(model, IMAGES)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out, self.none = nn.LSTM(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, inputs):
        return self.out(self.lstm(inputs)[0])


@pytest.mark.parametrize("criterion", [nisp, lookahead])
def test_what_cannot_be_scored_is_named(criterion):
    name = criterion.__name__
    with pytest.raises(ConfigError, match=f"'{name}' takes the shape of an input from the first"):
        criterion(nn.Linear(3, 2), ScoringData())
    scores = criterion(Recurrent(), ScoringData([(torch.ones(2, 5, 3), torch.zeros(2))]))
    assert scores["out.weight"].any()
    with pytest.raises(ConfigError, match=f"'{name}' cannot score 'lstm.weight_ih_l0': numbers"):
        scores["lstm.weight_ih_l0"]
    with pytest.raises(ConfigError, match=f"'{name}' cannot score 'none.weight': its layer is not"):
        scores["none.weight"]

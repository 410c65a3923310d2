import copy
import itertools

import pytest
import torch
from torch import nn

from tersor.core import MaskSet
from tersor.core.errors import ConfigError
from tersor.prune import REPAIRS, prune_
from tersor.prune.repair import layerwise_obs, obs
from tersor.prune.scoring import ScoringData


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(256, 3),
    ).double()


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 2, 4, 4, generator=draw).double()
    return ScoringData([(inputs[:30], torch.arange(30) % 3), (inputs[30:], torch.arange(10) % 3)])


def outputs(model, data, layer, of):
    """What a layer makes of the inputs that it had in another model."""
    inputs = torch.cat([x for x, _ in data.batches])
    with torch.no_grad():
        return model[layer](of[:layer](inputs))


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_outputs_are_never_further_off_than_with_plain_zeros(net, data, density, layer):
    name = f"{layer}.weight"
    plain, repaired = copy.deepcopy(net), copy.deepcopy(net)
    masks, _ = prune_(plain, density, select=name)
    prune_(repaired, density, select=name, repair="layerwise_obs", data=data)
    before = outputs(net, data, layer, net)
    errors = [(outputs(m, data, layer, net) - before).norm().item() for m in (plain, repaired)]
    assert errors[1] < errors[0]
    weight = repaired[layer].weight
    assert not weight[~masks[name]].any()
    assert weight[masks[name]].all()


def test_each_row_is_the_least_squares_fit_by_the_inputs_that_are_left(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 5)).double()
    before = model[1].weight.detach().clone()
    inputs = torch.cat([x for x, _ in data.batches]).flatten(1)
    draw = torch.Generator().manual_seed(1)
    masks = MaskSet({"1.weight": torch.rand(5, 32, generator=draw) < 0.3})
    layerwise_obs(model, masks, data, damping=0.0)
    for row in range(5):
        kept = masks["1.weight"][row]
        fit = torch.linalg.lstsq(inputs[:, kept], inputs @ before[row]).solution
        torch.testing.assert_close(model[1].weight[row].detach()[kept], fit)


def test_one_weight_at_a_time_ends_at_the_same_fit(data):
    # The recursion of the paper, each step with the least score, against one repair at the end.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 1, bias=False)).double()
    at_once = copy.deepcopy(model)
    options = {"damping": 0.0}
    masks, _ = prune_(
        model,
        20 / 32,
        criterion=lambda m, d: __import__("tersor.prune.criteria", fromlist=["x"]).layerwise_obs(
            m, d, **options
        ),
        repair=lambda m, k, d: layerwise_obs(m, k, d, **options),
        data=data,
        rounds=12,
        schedule="linear",
    )
    layerwise_obs(at_once, masks, data, **options)
    torch.testing.assert_close(model[1].weight, at_once[1].weight, rtol=1e-6, atol=1e-9)


def test_the_loss_of_a_linear_model_rises_by_what_the_quadratic_says(data):
    def half_squares(outputs, targets):
        return (outputs - targets).square().sum() / (2 * len(outputs))

    draw = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(30, 5, generator=draw), torch.randn(30, 1, generator=draw)
    inputs = inputs.double() @ torch.randn(5, 5, generator=draw).double()
    one = ScoringData([(inputs, targets.double())], half_squares)
    model = nn.Linear(5, 1, bias=False).double()
    model.weight.detach().copy_(torch.linalg.lstsq(inputs, targets.double()).solution.T)
    start = model.weight.detach().clone()
    for gone in itertools.combinations(range(5), 2):
        model.weight.detach().copy_(start)
        kept = torch.ones(1, 5, dtype=torch.bool)
        kept[0, list(gone)] = False
        obs(model, MaskSet({"weight": kept}), one, damping=1e-9)
        left = inputs[:, kept[0]]
        best = left @ torch.linalg.lstsq(left, targets.double()).solution
        torch.testing.assert_close(
            half_squares(model(inputs), targets.double()), half_squares(best, targets.double())
        )


@pytest.mark.parametrize("name", REPAIRS)
def test_a_trained_net_loses_less_with_a_repair(name):
    torch.manual_seed(0)
    inputs = torch.randn(300, 10) @ torch.randn(10, 10)
    targets = (inputs[:, 0] * inputs[:, 1] + inputs[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    losses = {}
    for repair in (None, name):
        pruned = copy.deepcopy(model)
        prune_(pruned, 0.4, criterion=name, repair=repair, data=[(inputs, targets)])
        losses[repair] = nn.functional.cross_entropy(pruned(inputs), targets).item()
    assert losses[name] < 0.9 * losses[None]


@pytest.mark.parametrize("name", REPAIRS)
def test_what_has_no_mask_or_loses_nothing_is_left_as_it_is(net, data, name):
    before = {n: t.clone() for n, t in net.state_dict().items()}
    masks = MaskSet({"0.weight": torch.ones(4, 1, 3, 3, dtype=torch.bool)})
    masks["0.weight"][0] = False
    masks["0.weight"][0, 0, 0] = True
    full = MaskSet({**masks, "4.weight": torch.ones(3, 256, dtype=torch.bool)})
    flags = [m.training for m in net.modules()]
    REPAIRS[name](net, full, data)
    assert [m.training for m in net.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    changed = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"0.weight"}
    # Rows that lose nothing are as they were but for rounding.
    torch.testing.assert_close(net[0].weight[1:].detach(), before["0.weight"][1:])


@pytest.mark.parametrize("name", REPAIRS)
def test_what_cannot_be_repaired_is_named(name):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.out(self.lstm(inputs)[0][:, -1])

    model, data = Recurrent(), [(torch.ones(2, 5, 3), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(ConfigError, match=r"mask 'nowhere': Recurrent has no such weight"):
        REPAIRS[name](model, MaskSet({"nowhere": torch.zeros(1, dtype=torch.bool)}), ScoringData())
    if name == "layerwise_obs":
        with pytest.raises(
            ConfigError, match=r"repair 'layerwise_obs' cannot change 'lstm.weight_ih_l0': it looks"
        ):
            prune_(model, 0.5, repair=name, data=data)
    else:
        prune_(model, 0.5, repair=name, data=data)  # curvature is there for every weight

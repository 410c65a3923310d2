import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, quantize_
from tersor.quantize.equalization import equalize_
from tersor.quantize.fake_quantize import FakeQuantize, put_before
from tersor.tasks import build_model


def uneven(model, seed=0):
    """Every output channel of every layer has a range of its own, over three orders."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            shape = [-1] + [1] * (module.weight.dim() - 1)
            powers = torch.rand(len(module.weight), generator=draw) * 3 - 1.5
            module.weight.data *= (10**powers).view(shape)
    return model


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.pairs = nn.Conv2d(8, 6, 1, groups=2)
        self.fc = nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = F.leaky_relu(self.depthwise(self.first(x).relu()), 0.1)
        return self.fc(torch.flatten(F.max_pool2d(self.pairs(x), 2), 1))


NETWORKS = [
    (lambda: build_model("lenet-300-100"), (4, 1, 28, 28), 2),
    (lambda: build_model("lenet-5"), (4, 1, 28, 28), 3),
    (Grouped, (4, 3, 8, 8), 3),
]


@pytest.mark.parametrize(("make", "shape", "count"), NETWORKS)
def test_the_outputs_stay_and_both_sides_have_the_same_ranges(make, shape, count):
    torch.manual_seed(0)
    model = uneven(make()).eval()
    inputs = torch.randn(shape)
    before = model(inputs)
    report = equalize_(model)
    after = model(inputs)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert len(report.rows) == count
    assert all(row["precision after"] > row["precision before"] for row in report.rows)
    again = equalize_(copy.deepcopy(model))
    for row in again.rows:
        assert row["precision after"] == pytest.approx(row["precision before"], rel=0.02)


def test_channels_meet_in_the_geometric_mean_of_their_ranges():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    model[2].weight.data = torch.tensor([[1.0, 5.0], [0.5, 2.0]])
    model[0].bias.data.fill_(2.0)
    equalize_(model)
    assert model[0].weight.tolist() == [[2.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert model[2].weight.tolist() == [[2.0, 5.0], [1.0, 2.0]]  # a dead channel is left
    assert model[0].bias.tolist() == [1.0, 2.0]


def test_one_scale_for_a_tensor_loses_less_afterwards():
    torch.manual_seed(0)
    model = uneven(build_model("lenet-300-100")).eval()
    inputs = torch.rand(20, 1, 28, 28)
    before = model(inputs)
    errors = []
    for prepare in (lambda m: None, equalize_):
        twin = copy.deepcopy(model)
        prepare(twin)
        quantize_(twin, Affine(8, "tensor"))
        errors.append(float((twin(inputs) - before).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_what_lies_between_decides():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d, self.e = (nn.Linear(3, 3) for _ in range(5))
            self.gelu = nn.GELU()

        def forward(self, x):
            x = self.b(self.gelu(self.a(x)))
            return self.d(torch.sigmoid(self.c(x + x.relu()))) + self.e(x)

    with pytest.raises(ConfigError, match="no two layers that fit"):
        equalize_(Net())
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    report = equalize_(model)
    assert [(row["first"], row["second"]) for row in report.rows] == [("2", "4")]
    assert report.skipped["0"] == "GELU stands behind it"
    assert "model's" in report.skipped["4"]


def test_pairs_that_do_not_fit_are_refused_and_those_that_are_said_are_taken():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(self.one(x).relu()) if x.sum() > 0 else x

    model, inputs = uneven(Branching()), torch.ones(2, 3)
    with pytest.raises(ConfigError, match="cannot trace Branching"):
        equalize_(model)
    before = model(inputs)
    equalize_(model, [("one", "two")])
    torch.testing.assert_close(model(inputs), before)
    for pairs, match in [
        ([("one", "three")], "'three' is no linear"),
        ([("two", "one")], "'two' has 2 outputs, but 'one' takes 3 inputs"),
    ]:
        with pytest.raises(ConfigError, match=match):
            equalize_(model, pairs)
    put_before(model.two, FakeQuantize())
    with pytest.raises(ConfigError, match="the input of 'two' is quantized"):
        equalize_(model, [("one", "two")])

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.measure import macs
from tersor.tasks import build_model

IMAGES = torch.zeros(2, 1, 28, 28)


def test_lenet_300_100_multiplies_once_with_each_weight():
    counted = macs(build_model("lenet-300-100"), IMAGES)
    assert counted.by_weight == {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
    assert counted.total == 266_200
    assert (counted.other, counted.not_counted) == (0, {})


def test_lenet_5_multiplies_with_each_filter_at_each_place():
    assert macs(build_model("lenet-5"), IMAGES).by_weight == {
        "conv1.weight": 24 * 24 * 20 * 25,
        "conv2.weight": 8 * 8 * 50 * 20 * 25,
        "fc1.weight": 800 * 500,
        "fc2.weight": 500 * 10,
    }


def test_effective_macs_leave_out_the_zero_weights():
    model = build_model("lenet-5")
    with torch.no_grad():
        model.conv2.weight[10:] = 0  # 10 of 50 filters are left
        model.fc1.weight[:, ::4] = 0
    counted = macs(model, IMAGES)
    assert counted.effective_by_weight == {
        "conv1.weight": 288_000,
        "conv2.weight": 320_000,
        "fc1.weight": 300_000,
        "fc2.weight": 5_000,
    }
    assert counted.effective == 913_000
    assert counted.total == 2_293_000


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), (4, 8, 8), {"weight": 4 * 4 * 6 * 18}),
        (nn.Conv1d(2, 3, 5), (2, 9), {"weight": 5 * 3 * 10}),
        (nn.ConvTranspose1d(2, 3, 4), (2, 5), {"weight": 5 * 2 * 3 * 4}),
        (nn.Linear(4, 3), (7, 4), {"weight": 7 * 12}),
        (
            nn.LSTM(4, 5, batch_first=True),
            (3, 4),
            {"weight_ih_l0": 3 * 4 * 5 * 4, "weight_hh_l0": 3 * 4 * 5 * 5},
        ),
        (
            nn.GRU(4, 5, batch_first=True),
            (3, 4),
            {"weight_ih_l0": 3 * 3 * 5 * 4, "weight_hh_l0": 3 * 3 * 5 * 5},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_layer_has_the_macs_of_its_closed_form(layer, shape, expected):
    assert macs(layer, torch.zeros(2, *shape)).by_weight == expected


def test_attention_is_counted_by_weight_and_between_activations():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    counted = macs(layer, torch.zeros(2, 3, 8))
    assert counted.by_weight == {
        "self_attn.in_proj_weight": 3 * 8 * 24,
        "self_attn.out_proj.weight": 3 * 8 * 8,
        "linear1.weight": 3 * 8 * 16,
        "linear2.weight": 3 * 16 * 8,
    }
    assert counted.other == 2 * (3 * 3 * 8)  # queries with keys, attention with values
    assert counted.not_counted == {}
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


class Oddities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.tied = nn.Embedding(7, 3)
        self.masked = nn.Linear(3, 3)
        self.both = nn.Bilinear(3, 3, 3)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.tied.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.table(x) + self.tied(x)  # (N, 2, 3)
        x = F.linear(x, self.masked.weight * 2)
        return self.head(self.both(x, x))


def test_what_is_not_counted_is_told_by_name():
    counted = macs(Oddities(), torch.tensor([[1, 2]]))
    assert counted.by_weight == {"tied.weight": 2 * 3 * 7}
    assert counted.other == 2 * 3 * 3
    assert counted.not_counted == {
        "table.weight": "looked up, not multiplied",
        "masked.weight": "read by aten.mul.Tensor, which is not counted",
        "both.weight": "read by aten._trilinear, which is not counted",
        "unused.weight": "took no part in this forward pass",
    }


def test_a_product_of_activations_that_is_not_counted_is_told():
    class Dot(nn.Module):
        def forward(self, x):
            return torch.dot(x[0], x[0])

    counted = macs(Dot(), torch.zeros(1, 4))
    assert counted.total == 0
    assert list(counted.not_counted) == ["aten.dot"]


def test_parameters_in_one_storage_are_told_apart():
    sides = (2, 4, 3, 2)  # the largest weight lies between two smaller ones
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sides)))
    parts = torch.zeros(8 + 12 + 6).split([8, 12, 6])
    for layer, part in zip(model, parts, strict=True):
        layer.weight = nn.Parameter(part.view(layer.weight.shape))
    counted = macs(model, torch.zeros(1, 2))
    assert counted.by_weight == {"0.weight": 8, "1.weight": 12, "2.weight": 6}


def test_the_model_is_left_in_training():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))  # would refuse one sample in training
    macs(model, torch.zeros(5, 4))
    assert model[1].training
    assert model[1].num_batches_tracked == 0


def test_an_empty_example_is_refused():
    with pytest.raises(ConfigError, match=r"example_input has shape \(0, 4\)"):
        macs(nn.Linear(4, 2), torch.zeros(0, 4))

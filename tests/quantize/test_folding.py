import copy
import json

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize.folding import FoldedNorm, fold_batch_norms_
from tersor.quantize.structure import rebuild_, structure
from tersor.tasks import build_model

CASES = [
    (nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), (7, 4)),
    (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6, affine=False), (7, 4, 9)),
    (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.1), (7, 4, 5, 5)),
    (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (7, 2, 3, 3, 3)),
]


def used(norm):
    draw = torch.Generator().manual_seed(0)
    norm.running_mean.normal_(generator=draw)
    norm.running_var.uniform_(0.1, 3, generator=draw)
    if norm.affine:
        norm.weight.data.normal_(generator=draw)
        norm.bias.data.normal_(generator=draw)
    return norm


@pytest.mark.parametrize(("layer", "norm", "shape"), CASES, ids=lambda v: type(v).__name__)
def test_the_outputs_stay(layer, norm, shape):
    model = nn.Sequential(copy.deepcopy(layer), used(copy.deepcopy(norm)), nn.ReLU()).double()
    model.eval()
    model[0].weight.data[1] = 0
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    before = model(inputs)
    report = fold_batch_norms_(model)
    torch.testing.assert_close(model(inputs), before, rtol=1e-5, atol=1e-6)
    assert [(row["name"], row["norm"]) for row in report.rows] == [("0", "1")]
    assert isinstance(model[1], FoldedNorm)
    assert not model[1].training
    zeros = model[0].weight[1]
    assert torch.equal(zeros.view(torch.int64), torch.zeros_like(zeros, dtype=torch.int64))


def test_a_residual_network_is_folded_whole_and_rebuilt_from_its_records():
    torch.manual_seed(0)
    model = build_model("resnet-8", input_shape=(3, 32, 32)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            used(module)
    inputs = torch.randn(3, 3, 32, 32)
    before = model(inputs)
    report = fold_batch_norms_(model)
    assert len(report.rows) == 9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(inputs), before, rtol=1e-4, atol=1e-4)
    again = build_model("resnet-8", input_shape=(3, 32, 32)).eval()
    rebuild_(again, json.loads(json.dumps(structure(model))))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(inputs), model(inputs))


def test_what_cannot_be_folded_is_skipped_with_the_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.tied = nn.Linear(3, 3)
            self.tied.weight = self.two.weight
            self.norm1, self.norm2, self.norm3 = (nn.BatchNorm1d(3) for _ in range(3))
            self.last, self.norm4 = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            y = self.one(x)
            x = self.norm2(self.two(self.norm1(y) + y))
            return self.norm4(self.last(self.norm3(self.tied(x).relu())))

    model = Net().eval()
    report = fold_batch_norms_(model)
    assert [row["norm"] for row in report.rows] == ["norm4"]
    assert "not the output of one" in report.skipped["norm1"]
    assert "other modules use" in report.skipped["norm2"]
    assert "not the output of one" in report.skipped["norm3"]
    with pytest.raises(ConfigError, match="there are none"):
        fold_batch_norms_(nn.Linear(3, 3))


def test_a_record_without_its_layer_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="folded into 'fc', which is no layer"):
        rebuild_(model, [{"name": "1", "kind": "folded_norm", "into": "fc"}])
    assert isinstance(model[1], nn.BatchNorm1d)

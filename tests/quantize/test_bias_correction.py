import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, quantize_
from tersor.quantize.bias_correction import correct_biases_, mean_outputs


def network():
    torch.manual_seed(0)
    conv, hidden, last = nn.Conv2d(2, 4, 3), nn.Linear(4 * 16, 6), nn.Linear(6, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), hidden, nn.ReLU(), last).eval()


def test_every_mean_is_that_of_the_reference_afterwards():
    dense, inputs = network(), torch.rand(50, 2, 6, 6)
    model = copy.deepcopy(dense)
    quantize_(model, Affine(3))
    weights = [p.clone() for n, p in model.named_parameters() if "weight" in n]
    names = ["0", "3", "5"]
    data = [(inputs[:20], 0), (inputs[20:], 0)]
    wanted = mean_outputs(dense, names, data)
    before = mean_outputs(model, names, data)
    report = correct_biases_(model, dense, data)
    after = mean_outputs(model, names, data)
    for name, row in zip(names, report.rows, strict=True):
        assert (before[name] - wanted[name]).abs().max() > 1e-3
        torch.testing.assert_close(after[name], wanted[name], rtol=0, atol=1e-6)
        assert row["left"] < 1e-6 < row["largest shift"]
    kept = [p for n, p in model.named_parameters() if "weight" in n]
    assert all(map(torch.equal, weights, kept))


def test_on_a_linear_layer_it_is_the_closed_form():
    dense = nn.Linear(8, 4).double()
    model = copy.deepcopy(dense)
    quantize_(model, Affine(2))
    inputs = torch.rand(30, 5, 8).double()
    shift = (model.weight - dense.weight).detach() @ inputs.mean((0, 1))
    correct_biases_(model, dense, [inputs])
    torch.testing.assert_close(model.bias, dense.bias - shift)


def test_means_are_over_samples_and_places_and_over_unequal_batches():
    layer = nn.Conv1d(2, 3, 2)
    inputs = torch.randn(7, 2, 5)
    [found] = mean_outputs(layer, [""], [inputs[:2], inputs[2:]]).values()
    torch.testing.assert_close(found, layer(inputs).mean((0, 2)).double())


def test_what_does_not_fit_is_refused_and_nothing_changes():
    model = network()
    before = copy.deepcopy(model.state_dict())
    other = nn.Sequential(nn.Conv2d(2, 4, 5))
    bare = network()
    bare[3].bias = None
    data = [torch.rand(2, 2, 6, 6)]
    for reference, batches, match in [
        (other, data, "no such layer '0'"),
        (bare, data, "'3' has a bias, but not in the reference"),
        (network(), [], "no batches"),
        (network(), iter(data), "used up after one layer"),
    ]:
        with pytest.raises(ConfigError, match=match):
            correct_biases_(model, reference, batches)
    bare = nn.Linear(2, 2, bias=False)
    with pytest.raises(ConfigError, match="no layer to work on"):
        correct_biases_(bare, copy.deepcopy(bare), [torch.rand(3, 2)])
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    report = correct_biases_(model, network(), data, ignore="5")
    assert report.skipped["5.weight"] == "ignored"

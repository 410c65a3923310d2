import pytest
import torch
from torch import nn

from tersor.core import prunable
from tersor.core.layer_inputs import input_rows
from tersor.core.units import as_units, from_units


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2, whose weight is (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, inputs):
        return inputs @ self.weight + self.bias


LAYERS = [
    (nn.Linear(4, 3), (2, 4)),
    (nn.Linear(4, 3), (2, 5, 4)),
    (nn.Linear(4, 3), (4,)),
    (Conv1D(4, 3), (2, 5, 4)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 9)),
    (nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 2), groups=2), (20, 4, 7, 5)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 7, 5)),
    (nn.Conv2d(4, 4, 2, padding_mode="reflect", padding=1, groups=4), (2, 4, 7, 5)),
    (nn.Conv2d(4, 6, 2), (4, 7, 5)),
    (nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1)), (2, 2, 3, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0), groups=2), (2, 4, 5, 3)),
    (nn.ConvTranspose2d(4, 6, 1, stride=2, padding=1), (2, 4, 5, 3)),
    (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 2, 3, 2)),
]
NAMES = [f"{type(layer).__name__}-{index}" for index, (layer, _) in enumerate(LAYERS)]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_the_rows_times_the_weight_are_the_outputs(layer, shape):
    layer = layer.double()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    layer.bias.detach().zero_()
    outputs = layer(inputs).detach()
    (weight,) = prunable(layer)
    units = as_units(weight, weight.parameter.detach())
    rows = torch.cat(list(input_rows(layer, inputs, outputs)), 1)  # (groups, rows, inputs)
    grouped = units.view(len(rows), -1, units.shape[1])
    products = (rows @ grouped.mT).movedim(1, 0).flatten(1)  # (rows, units)
    channels_last = weight.kind == "linear" or outputs.dim() == 1
    axis = -1 if channels_last else -(len(layer.kernel_size) + 1)
    expected = outputs.movedim(axis, -1).reshape(-1, len(units))
    torch.testing.assert_close(products, expected)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=NAMES)
def test_units_go_there_and_back_and_are_the_outputs_of_the_layer(layer, shape):
    layer = layer.double()
    (weight,) = prunable(layer)
    values = weight.parameter.detach().clone()
    units = as_units(weight, values)
    assert torch.equal(from_units(weight, units), values)
    # Without the weights of unit 1 the output 1 is the bias, and no other.
    alive = torch.ones(len(units), 1, dtype=torch.bool)
    alive[1] = False
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    weight.parameter.detach().mul_(from_units(weight, alive))
    axis = -1 if weight.kind == "linear" else -(len(layer.kernel_size) + 1)
    outputs = layer(inputs).movedim(axis, -1).reshape(-1, len(units))
    weight.parameter.detach().copy_(values)
    moved = (outputs - layer.bias).abs().amax(0) > 1e-12
    assert moved.tolist() == alive.flatten().tolist()

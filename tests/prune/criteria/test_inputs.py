import itertools

import pytest
import torch
from torch import nn

from tersor.core import prunable
from tersor.prune.criteria.entries import as_units, from_units
from tersor.prune.criteria.inputs import input_rows, watch_inputs
from tersor.prune.scoring import ScoringData


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


def test_a_layer_that_is_called_twice_and_a_tied_one_give_the_rows_of_all_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, inputs):
            return self.b(self.a(self.a(inputs)))

    model, seen = Twice(), []
    data = ScoringData([(torch.ones(2, 3), torch.zeros(1)), (torch.ones(4, 3), torch.zeros(1))])
    refused = watch_inputs(
        model, prunable(model), data, "x", lambda w, rows: seen.append(rows.shape)
    )
    assert refused == {}
    assert [shape[1] for shape in seen] == [2, 2, 2, 4, 4, 4]


def test_padded_tokens_go_through_the_layers_of_an_encoder_as_others_do():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, inputs):
            padding = torch.zeros(inputs.shape[:2], dtype=torch.bool)
            padding[0, 3:] = True
            return self.encoder(inputs, src_key_padding_mask=padding)

    model, seen = Padded().requires_grad_(False), []
    data = ScoringData([(torch.ones(2, 5, 4), torch.zeros(2))])
    watch_inputs(model, prunable(model), data, "x", lambda w, rows: seen.append(rows.shape))
    assert seen == [(1, 10, 4), (1, 10, 8)]


def test_why_a_layer_has_no_inputs_is_said_and_nothing_is_left_behind():
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 4, batch_first=True),
            "attention": nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            "bilinear": nn.Bilinear(2, 2, 2),
            "embedding": nn.Embedding(3, 2),
        }
    )
    model.forward = lambda inputs: model["attention"](model["lstm"](inputs)[0])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = []
    data = ScoringData([(torch.ones(2, 5, 3), torch.zeros(1))])
    refused = watch_inputs(model, prunable(model), data, "x", lambda w, rows: names.append(w.name))
    assert names == ["attention.linear1.weight", "attention.linear2.weight"]
    assert "this is recurrent" in refused["lstm.weight_ih_l0"]
    assert "this is attention" in refused["attention.self_attn.in_proj_weight"]
    assert "not called as a module" in refused["attention.self_attn.out_proj.weight"]
    assert "this is embedding" in refused["embedding.weight"]
    assert "no weighted sums" in refused["bilinear.weight"]
    hooks = (m._forward_hooks for m in model.modules())
    assert not any(itertools.chain(*hooks))
    assert torch.backends.mha.get_fastpath_enabled()

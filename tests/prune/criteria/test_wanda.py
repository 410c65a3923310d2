import pytest
import torch
from torch import nn
from truths import without

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import wanda
from tersor.prune.scoring import ScoringData

LAYERS = {
    "tokens": (nn.Linear(3, 2), (2, 4, 3)),
    "convolution": (nn.Conv2d(2, 2, 2, stride=2, padding=1), (3, 2, 4, 4)),
    "groups": (nn.Conv2d(2, 4, 2, groups=2), (3, 2, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2, padding=1), (3, 2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_score_is_how_far_the_outputs_move_when_the_weight_goes(name):
    layer, shape = LAYERS[name]
    model = layer.double()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    halves = ScoringData([(inputs[:1], torch.zeros(1)), (inputs[1:], torch.zeros(1))])
    scores = wanda(model, halves)["weight"].flatten()
    with torch.no_grad():
        before = model(inputs)
        moved = [
            without(model.weight, i, lambda: (model(inputs) - before).norm().item())
            for i in range(model.weight.numel())
        ]
    assert scores.tolist() == pytest.approx(moved)


def test_two_of_four_inputs_are_compared_within_each_row():
    model = nn.Linear(4, 2, bias=False)
    model.weight.detach().copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [100.0, 1.0, 1.0, 1.0]]))
    inputs = torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0]))
    masks, _ = prune_(model, pattern="2:4", criterion="wanda", data=[(inputs, inputs)])
    assert masks["weight"].tolist() == [[True, False, False, True], [True, True, False, False]]


def test_a_weight_without_such_inputs_is_named_if_it_takes_part():
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "out": nn.Linear(4, 2)})
    model.forward = lambda inputs: model["out"](model["lstm"](inputs)[0])
    data = [(torch.ones(2, 5, 3), torch.zeros(1))]
    assert prunable(model)[0].name == "lstm.weight_ih_l0"
    with pytest.raises(
        ConfigError,
        match=r"criterion 'wanda' cannot score 'lstm.weight_ih_l0': it looks at the inputs of "
        r"linear and convolutional layers, this is recurrent. Leave it out, ignore=",
    ):
        prune_(model, 0.5, criterion="wanda", data=data)
    masks, _ = prune_(model, 0.5, criterion="wanda", data=data, ignore="lstm")
    assert masks.kept == 4

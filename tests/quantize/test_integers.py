import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, quantize_
from tersor.quantize.activations import quantize_activations_
from tersor.quantize.fake_quantize import FakeQuantize
from tersor.quantize.folding import fold_batch_norms_
from tersor.quantize.integers import IntegerNetwork, fixed_point, rescale, to_integers
from tersor.tasks import build_model


@given(st.floats(1e-12, 1e6), st.integers(-(2**31) + 1, 2**31 - 1))
def test_a_multiplier_is_31_bits_and_a_shift_and_rounds_once(multiplier, number):
    m, shift = fixed_point(torch.tensor([multiplier], dtype=torch.double))
    value = Fraction(int(m)) / Fraction(2) ** int(shift)
    if int(shift) < 62:
        assert 2**30 <= int(m) < 2**31
        assert abs(value - Fraction(multiplier)) <= Fraction(multiplier) / 2**31
    exact = Fraction(number) * value
    if abs(exact) < 2**62:
        found = int(rescale(torch.tensor([number]), m, shift))
        assert found == (exact + Fraction(1, 2)).__floor__()


LAYERS = [
    (nn.Linear(12, 6), (7, 12)),
    (nn.Linear(12, 6), (2, 3, 12)),
    (nn.Conv1d(3, 5, 3, padding="same"), (4, 3, 9)),
    (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (20, 4, 7, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (3, 4, 7, 6)),
    (nn.Conv2d(4, 6, 2, dilation=2), (4, 7, 6)),
]


@pytest.mark.parametrize("signs", ["both", "positive"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:30])
def test_integers_are_those_of_the_simulation_bit_for_bit(layer, shape, signs):
    layer = copy.deepcopy(layer)
    torch.manual_seed(0)
    layer.reset_parameters()
    inputs = torch.randn(shape) if signs == "both" else torch.rand(shape)
    grid = Affine(8).fit(layer.weight.detach())
    quantize_(layer, Affine(8))
    quantize_activations_(layer, [inputs])
    integers = to_integers(layer)
    assert torch.equal(integers.weight, grid.integers(layer.weight.detach()).to(torch.int8))
    torch.testing.assert_close(integers.weight_scale.float(), grid.scale.flatten())
    codes = layer.input_quantizer.integers(inputs)
    sums = integers.sums(codes)
    # The simulation in float64, with the rounded bias.
    twin = copy.deepcopy(layer).double()
    twin.weight.data = integers.weight.double() * integers._per_channel(integers.weight_scale).view(
        -1, *[1] * (layer.weight.dim() - 1)
    )
    if twin.bias is not None:
        twin.bias.data = integers.bias * integers.sum_scale
    simulated = twin.forward(layer.input_quantizer.decode(codes).double())
    whole = (simulated / integers._per_channel(integers.sum_scale)).round().long()
    assert torch.equal(sums, whole.detach())
    # And the simulation itself differs by half a step of the bias and float32 alone.
    bound = 0.5 * integers.sum_scale.max() + 1e-5
    assert ((integers.decode(sums) - layer(inputs)).abs() <= bound).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:30])
def test_output_codes_are_within_one_of_the_simulation(layer, shape, relu):
    layer = copy.deepcopy(layer)
    torch.manual_seed(1)
    layer.reset_parameters()
    inputs = torch.randn(shape)
    quantize_(layer, Affine(8))
    quantize_activations_(layer, [inputs])
    outputs = layer(inputs).detach()
    outputs = outputs.relu() if relu else outputs
    grid = FakeQuantize(low=float(outputs.min()), high=0.8 * float(outputs.max()))
    integers = to_integers(layer, outputs=grid, relu=relu)
    codes = integers(layer.input_quantizer.integers(inputs))
    assert codes.dtype == torch.int32
    difference = (codes - grid.integers(outputs)).abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() > 0.9
    if relu:
        assert codes.min() >= int(grid.zero_point)


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_a_network_in_integers_gives_what_its_simulation_gives(name):
    torch.manual_seed(0)
    model = build_model(name).eval()
    inputs = torch.randn(6, 1, 28, 28)
    quantize_(model, Affine(8))
    quantize_activations_(model, [inputs])
    network = IntegerNetwork(model)
    assert all(layer.outputs is not None for layer in network.layers[:-1])
    simulated = model(inputs).detach()
    found = network(inputs)
    # A code may differ by one in each hidden layer.
    assert (found - simulated).abs().max() < 0.02 * simulated.abs().max()
    assert torch.equal(found.argmax(1), simulated.argmax(1))


def test_batch_norms_are_folded_before():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    inputs = torch.randn(50, 2, 6, 6)
    model(inputs)
    model.eval()
    twin = copy.deepcopy(model)
    quantize_(twin, Affine(8))
    quantize_activations_(twin, [inputs])
    with pytest.raises(ConfigError, match="'1' is a BatchNorm2d"):
        IntegerNetwork(twin)
    dense = model(inputs).detach()
    fold_batch_norms_(model)
    quantize_(model, Affine(8))
    quantize_activations_(model, [inputs], range="minmax")
    found = IntegerNetwork(model)(inputs)
    simulated = model(inputs).detach()
    assert (found - simulated).abs().max() < 0.02 * simulated.abs().max()
    assert (found - dense).abs().max() < 0.05 * dense.abs().max()


def test_what_is_not_quantized_is_refused_with_what_to_do():
    layer = nn.Linear(5, 2)
    with pytest.raises(ConfigError, match="input is not quantized"):
        to_integers(layer)
    quantize_activations_(layer, [torch.rand(4, 5)])
    with pytest.raises(ConfigError, match="weights of output 0 are no multiples"):
        to_integers(layer)
    with pytest.raises(ConfigError, match="not on their grid"):
        to_integers(layer, grid=Affine(8).fit(layer.weight.detach()))
    quantize_(layer, Affine(4, symmetric=False))
    with pytest.raises(ConfigError, match="zero points"):
        to_integers(layer, grid=Affine(4, symmetric=False).fit(layer.weight.detach()))
    layer.weight.data.fill_(0.5)
    layer.bias.data.fill_(1e8)
    with pytest.raises(ConfigError, match="a bias does not fit"):
        to_integers(layer)
    layer.bias.data.fill_(0.0)
    with pytest.raises(ConfigError, match="no grid for its outputs"):
        to_integers(layer)(torch.zeros(1, 5))
    with pytest.raises(ConfigError, match="Embedding is no linear"):
        to_integers(nn.Embedding(2, 2))
    with pytest.raises(ConfigError, match="'1' is a GELU"):
        IntegerNetwork(nn.Sequential(layer, nn.GELU()))

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.initial import delta_orthogonal_, initialise_, variance_scaling_
from tersor.prune.initial.blocks import blocks


def fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(400, 250), (300, 10, 5, 5)])
def test_variance_scaling_is_a_normal_cut_at_two_deviations(shape):
    weight = variance_scaling_(torch.empty(shape), generator=fixed())
    deviation = 250**-0.5
    # Of a standard normal cut at -2 and 2: 1 - 2 * 2 * phi(2) / (Phi(2) - Phi(-2)).
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    left = math.erf(2 / math.sqrt(2))
    expected = deviation * math.sqrt(1 - 4 * density / left)
    assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert 1.9 * deviation < weight.abs().max().item() <= 2 * deviation


def test_a_generator_decides_and_the_global_one_stays():
    before = torch.get_rng_state()
    one = variance_scaling_(torch.empty(3, 4), generator=fixed())
    two = variance_scaling_(torch.empty(3, 4), generator=fixed())
    delta_orthogonal_(torch.empty(3, 3, 3, 3), generator=fixed())
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (5, 3), (3, 3, 3), (1, 1)])
@pytest.mark.parametrize("inputs", [4, 6])
def test_a_delta_orthogonal_convolution_keeps_every_norm(kernel, inputs):
    weight = delta_orthogonal_(
        torch.empty(6, inputs, *kernel, dtype=torch.double), generator=fixed()
    )
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    x = torch.randn(5, inputs, *[7] * len(kernel), dtype=torch.double, generator=fixed())
    out = convolve(x, weight, padding="same")
    torch.testing.assert_close(out.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))


def test_the_gain_scales_the_norm():
    weight = delta_orthogonal_(torch.empty(4, 4, 3, dtype=torch.double), 2.0, generator=fixed())
    x = torch.randn(1, 4, 9, dtype=torch.double, generator=fixed())
    assert (F.conv1d(x, weight, padding="same").norm() / x.norm()).item() == pytest.approx(2)


@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (4, 4, 2, 2), (4, 4)])
def test_a_kernel_that_cannot_be_delta_orthogonal_is_named(shape):
    with pytest.raises(
        ConfigError, match=rf"delta_orthogonal_: shape \({', '.join(map(str, shape))}"
    ):
        delta_orthogonal_(torch.empty(shape))


def test_a_vector_has_no_inputs_to_scale_with():
    with pytest.raises(ConfigError, match=r"variance_scaling_: shape \(5,\)"):
        variance_scaling_(torch.empty(5))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.rnn = nn.LSTM(6, 6)
        self.gru = nn.GRU(6, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.fc = nn.Linear(6, 6)


def test_each_gate_group_and_projection_is_orthogonal_and_biases_are_zero():
    torch.manual_seed(0)
    model = Mixed().double()
    nn.init.normal_(model.norm.bias)
    norm = {name: tensor.clone() for name, tensor in model.norm.state_dict().items()}
    initialise_(model, nn.init.orthogonal_)
    counts = {}
    for weight in prunable(model):
        parts = blocks(weight, weight.parameter.detach())
        counts[weight.name] = len(parts)
        for part in parts:
            flat = part.flatten(1)
            gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
            torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.double))
    assert counts == {
        "conv.weight": 2,
        "rnn.weight_ih_l0": 4,
        "rnn.weight_hh_l0": 4,
        "gru.weight_ih_l0": 3,
        "gru.weight_hh_l0": 3,
        "attention.in_proj_weight": 3,
        "attention.out_proj.weight": 1,
        "fc.weight": 1,
    }
    biases = {n: p for n, p in model.named_parameters() if "bias" in n and "norm" not in n}
    assert len(biases) == 8
    assert all((p == 0).all() for p in biases.values())
    assert all(torch.equal(t, norm[name]) for name, t in model.norm.state_dict().items())


def test_the_projection_of_an_lstms_state_is_one_map():
    lstm = nn.LSTM(5, 6, proj_size=3)
    found = {w.name: len(blocks(w, w.parameter)) for w in prunable(lstm)}
    assert found == {"weight_ih_l0": 4, "weight_hh_l0": 4, "weight_hr_l0": 1}

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import UniversalTransformer
from tersor.share.universal import timing_signal


def block() -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_parameters_do_not_depend_on_the_steps(steps):
    assert count(UniversalTransformer(block(), 8, steps=steps)) == count(block())


def test_one_step_is_one_block_of_the_inputs_and_the_signal():
    layer = block()
    inputs = torch.randn(2, 4, 8, dtype=torch.float64)
    found = UniversalTransformer(layer, 8, steps=1)(inputs)
    torch.testing.assert_close(found, layer(inputs + timing_signal(4, 1, 8)))


def test_the_gradient_is_the_sum_over_the_steps():
    layer = block()
    inputs = torch.randn(2, 4, 8, dtype=torch.float64)
    model = UniversalTransformer(layer, 8, steps=3)
    apart = nn.ModuleList([copy.deepcopy(layer) for _ in range(3)])
    hidden = inputs
    for step, each in enumerate(apart, 1):
        hidden = each(hidden + timing_signal(4, step, 8))
    (hidden**3).sum().backward()
    (model(inputs) ** 3).sum().backward()
    for name, parameter in layer.named_parameters():
        uses = torch.stack([dict(each.named_parameters())[name].grad for each in apart])
        torch.testing.assert_close(parameter.grad, uses.sum(0))


def test_the_signal_is_that_of_the_paper():
    signal = timing_signal(5, 3, 6)
    for position in range(1, 6):
        for j in range(3):  # eq. 6 and 7, whose sines and cosines come in turns
            scale = 10_000 ** (2 * j / 6)
            sine = math.sin(position / scale) + math.sin(3 / scale)
            cosine = math.cos(position / scale) + math.cos(3 / scale)
            assert signal[position - 1, j].item() == pytest.approx(sine)
            assert signal[position - 1, 3 + j].item() == pytest.approx(cosine)


def test_arguments_reach_the_block():
    layer = block()
    inputs = torch.randn(1, 4, 8, dtype=torch.float64)
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    model = UniversalTransformer(layer, 8, steps=2)
    masked = model(inputs, src_mask=mask)
    inputs[0, 3] += 1
    torch.testing.assert_close(model(inputs, src_mask=mask)[0, :3], masked[0, :3])


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="width: 7; expected an even number"):
        UniversalTransformer(block(), 7)
    with pytest.raises(ConfigError, match="steps: 0"):
        UniversalTransformer(block(), 8, steps=0)

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


def halting_model(**settings) -> UniversalTransformer:
    model = UniversalTransformer(block(), 8, **{"steps": 5, "halting": 0.9} | settings)
    torch.manual_seed(3)
    nn.init.normal_(model.halt.weight)
    nn.init.constant_(model.halt.bias, -0.5)
    return model


def by_definition(model: UniversalTransformer, inputs: torch.Tensor):
    """Graves 2016, position by position: output, N and R."""
    samples, length, _ = inputs.shape
    chances = [[[] for _ in range(length)] for _ in range(samples)]
    states = [[[] for _ in range(length)] for _ in range(samples)]
    halted = [[False] * length for _ in range(samples)]
    hidden = inputs
    for step in range(1, model.steps + 1):
        signalled = hidden + timing_signal(length, step, 8)
        p, new = torch.sigmoid(model.halt(signalled))[..., 0], model.block(signalled)
        hidden = hidden.clone()
        for n in range(samples):
            for t in range(length):
                if not halted[n][t]:
                    chances[n][t].append(p[n, t])
                    states[n][t].append(new[n, t])
                    hidden[n, t] = new[n, t]
                    halted[n][t] = sum(chances[n][t]) > model.halting
    output, counts, rests = torch.zeros_like(inputs), [], []
    for n in range(samples):
        for t in range(length):
            rest = 1 - sum(chances[n][t][:-1])
            for weight, state in zip([*chances[n][t][:-1], rest], states[n][t], strict=True):
                output[n, t] = output[n, t] + weight * state
            counts.append(len(states[n][t]))
            rests.append(rest)
    return output, counts, rests


def test_halting_is_that_of_the_definition_at_every_position():
    model = halting_model()
    inputs = torch.randn(3, 6, 8, dtype=torch.float64)
    output = model(inputs)
    expected, counts, rests = by_definition(model, inputs)
    torch.testing.assert_close(output, expected)
    assert model.taken.flatten().tolist() == counts
    assert 1 in counts
    assert 5 in counts
    ponder = sum(n + r for n, r in zip(counts, rests, strict=True)) / len(counts)
    torch.testing.assert_close(model.ponder, ponder)
    found = torch.autograd.grad(model.ponder + output.sum(), model.halt.weight)
    torch.testing.assert_close(
        found, torch.autograd.grad(ponder + expected.sum(), model.halt.weight)
    )


@pytest.mark.parametrize(("bias", "taken"), [(-40.0, 5), (40.0, 1)])
def test_positions_that_never_or_at_once_halt_take_all_steps_or_one(bias, taken):
    model = halting_model()
    nn.init.zeros_(model.halt.weight)
    nn.init.constant_(model.halt.bias, bias)
    inputs = torch.randn(2, 4, 8, dtype=torch.float64)
    plain = UniversalTransformer(model.block, 8, steps=taken)
    torch.testing.assert_close(model(inputs), plain(inputs))
    assert model.ponder.item() == pytest.approx(taken + 1)
    assert (model.taken == taken).all()


def test_a_cost_of_pondering_makes_positions_halt_sooner():
    model = halting_model(steps=8)
    nn.init.constant_(model.halt.bias, -3.0)
    inputs = torch.randn(4, 6, 8, dtype=torch.float64)
    optimizer = torch.optim.Adam([*model.halt.parameters()], 0.05)
    found = []
    for _ in range(60):
        optimizer.zero_grad()
        model(inputs)
        model.ponder.backward()
        optimizer.step()
        found.append(model.ponder.item())
    assert found[-1] < 0.6 * found[0]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="width: 7; expected an even number"):
        UniversalTransformer(block(), 7)
    with pytest.raises(ConfigError, match="halting: 1; expected 0 < halting < 1"):
        UniversalTransformer(block(), 8, halting=1)
    with pytest.raises(ConfigError, match="steps: 0"):
        UniversalTransformer(block(), 8, steps=0)

"""Group lasso and ReLU units: what must not change, and the least value by three ways."""

import math
from functools import partial

import convex_program
import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.equivalence import (
    UnitForm,
    activation_patterns,
    decay_penalty,
    gradient_flow,
    relu_group_lasso,
    rescale_,
    train_units_,
    unit_form,
    unit_imbalance,
)


def layers(units: int = 7, outputs: int = 1, *, seed: int = 0, bias: bool = True, width: int = 3):
    torch.manual_seed(seed)
    first = nn.Linear(width, units, bias=bias, dtype=torch.float64)
    second = nn.Linear(units, outputs, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        first.weight.mul_(4.0)
        second.weight.mul_(0.5)
    return first, second


INPUTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LEAKS = {"relu": 0.0, "leaky relu": 0.1, "none": 1.0}


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("bias", [True, False])
def test_rescaling_leaves_the_function_and_balances_the_units(leak, outputs, bias):
    first, second = layers(outputs=outputs, bias=bias)
    activation = partial(nn.functional.leaky_relu, negative_slope=leak)
    before = second(activation(first(INPUTS)))
    form = unit_form(first, second)
    torch.testing.assert_close(form.outputs(INPUTS, leak=leak), before, rtol=0, atol=1e-12)
    report = rescale_(first, second)
    torch.testing.assert_close(second(activation(first(INPUTS))), before, rtol=0, atol=1e-12)
    assert unit_imbalance(first, second).abs().max() < 1e-12
    # the value of the group lasso at this function, and the least decay of any rescaling
    assert decay_penalty(first, second).item() == pytest.approx(float(form.penalty()), abs=1e-12)
    assert report.summary["decay after"] == pytest.approx(float(form.penalty()), abs=1e-12)
    assert report.summary["decay before"] > report.summary["decay after"] + 0.01


def test_rescaling_is_not_for_an_activation_that_is_not_homogeneous():
    first, second = layers()
    before = second(torch.tanh(first(INPUTS)))
    rescale_(first, second)
    assert (second(torch.tanh(first(INPUTS))) - before).abs().max() > 0.01


def test_units_that_are_zero_lose_what_is_left_and_constants_stay():
    first, second = layers()
    with torch.no_grad():
        second.weight[:, 0] = 0.0  # never seen
        first.weight[1] = 0.0  # never anything, as its bias is 0
        first.bias[1] = 0.0
        first.weight[2] = 0.0  # always the same
        first.bias[2] = 0.5
    before = second(torch.relu(first(INPUTS)))
    constant = second.weight[:, 2].clone()
    report = rescale_(first, second)
    torch.testing.assert_close(second(torch.relu(first(INPUTS))), before, rtol=0, atol=1e-12)
    assert report.summary["dead units"] == 2
    assert report.summary["constant units"] == 1
    assert first.weight[:2].abs().max() == second.weight[:, :2].abs().max() == 0
    assert torch.equal(second.weight[:, 2], constant)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layers_of_a_form_are_those_of_the_least_decay(bias):
    first, second = layers(outputs=3, bias=bias)
    if bias:
        with torch.no_grad():
            first.weight[2] = 0.0
            first.bias[2] = 0.5
    form = unit_form(first, second)
    one, two = form.layers()
    expected = second(torch.relu(first(INPUTS)))
    torch.testing.assert_close(two(torch.relu(one(INPUTS))), expected, rtol=0, atol=1e-12)
    constant = two.weight[:, 2].square().sum().item() if bias else 0.0
    assert decay_penalty(one, two).item() == pytest.approx(float(form.penalty()) + constant)


def problem(seed: int, samples: int = 6):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 2, generator=random, dtype=torch.float64)
    targets = torch.randn(samples, generator=random, dtype=torch.float64)
    return inputs, targets


@pytest.mark.parametrize("seed", range(4))
def test_the_splitting_finds_the_least_that_a_general_solver_finds(seed):
    inputs, targets = problem(seed)
    form = relu_group_lasso(inputs, targets, 0.2)
    value = (form.outputs(inputs)[:, 0] - targets).square().sum() + 0.2 * form.penalty()
    least = convex_program.least(inputs.numpy(), targets.numpy(), 0.2)
    assert float(value) == pytest.approx(least, abs=1e-6)
    assert len(form.beta) <= len(targets) + 1


def test_all_patterns_of_some_samples_in_general_position_are_found():
    for samples, width in ((6, 2), (4, 3), (9, 2)):
        random = torch.Generator().manual_seed(samples)
        inputs = torch.randn(samples, width, generator=random)
        count = 2 * sum(math.comb(samples - 1, k) for k in range(width))  # Cover 1965
        assert len(activation_patterns(inputs)) == count
    inputs, _ = problem(0)
    found = {tuple(row) for row in activation_patterns(inputs).double().tolist()}
    assert found == {tuple(row) for row in convex_program.patterns(inputs.numpy()).tolist()}


@pytest.mark.parametrize(("seed", "bias"), [(0, False), (3, True)])
def test_a_trained_network_has_the_least_of_the_group_lasso(seed, bias):
    inputs, targets = problem(seed)
    form = relu_group_lasso(inputs, targets, 0.2, bias=bias)
    least = float((form.outputs(inputs)[:, 0] - targets).square().sum() + 0.2 * form.penalty())
    first, second = layers(8, seed=0, bias=bias, width=2)
    value = train_units_(
        first, second, lambda out: (out[:, 0] - targets).square().sum(), inputs, 0.2
    )
    assert value == pytest.approx(least, abs=1e-6)
    grouped = unit_form(first, second)
    loss = (grouped.outputs(inputs)[:, 0] - targets).square().sum()
    assert float(loss + 0.2 * grouped.penalty()) == pytest.approx(least, abs=1e-6)
    assert unit_imbalance(first, second).abs().max() < 1e-3  # its square is in the value
    # and in the other direction: the solution as a network has that value
    one, two = form.layers()
    loss = (two(torch.relu(one(inputs)))[:, 0] - targets).square().sum()
    assert (loss + 0.2 * decay_penalty(one, two)).item() == pytest.approx(least, abs=1e-9)


def test_linear_units_are_one_group_of_the_group_lasso():
    # sum_j beta_j = b; the penalty is least if all are parallel: min |Xb - y|**2 + 2 decay |b|
    inputs, targets = problem(3)
    first, second = layers(5, seed=1, bias=False, width=2)
    value = train_units_(
        first,
        second,
        lambda out: (out[:, 0] - targets).square().sum(),
        inputs,
        0.5,
        leak=LEAKS["none"],
    )
    # stationary: (X'X + (decay / |b|) I) b = X'y; |b| is the root of a decreasing function
    gram, pull = inputs.T @ inputs, inputs.T @ targets
    low, high = 1e-9, 1e3
    for _ in range(200):
        length = (low + high) / 2
        b = torch.linalg.solve(gram + 0.5 / length * torch.eye(2, dtype=torch.float64), pull)
        low, high = (length, high) if float(b.norm()) > length else (low, length)
    expected = (inputs @ b - targets).square().sum() + 2 * 0.5 * b.norm()
    assert value == pytest.approx(float(expected), abs=1e-9)


def test_flow_without_decay_conserves_incoming_with_bias_minus_outgoing():
    first, second = layers(4, seed=2)
    targets = INPUTS[:, 0].sin()

    def objective(x):
        w1, b1, w2 = x
        out = torch.nn.functional.softplus(INPUTS @ w1.T + b1) @ w2.T  # not homogeneous
        return (out[:, 0] - targets).square().sum()

    def homogeneous(x):
        w1, b1, w2 = x
        return (torch.relu(INPUTS @ w1.T + b1) @ w2.T)[:, 0].sub(targets).square().sum()

    start = [first.weight, first.bias, second.weight]

    def conserved(x):
        w1, b1, w2 = x
        return w1.square().sum(1) + b1.square() - w2.square().sum(0)

    before = conserved([t.detach() for t in start])
    end = gradient_flow(homogeneous, start, time=0.02, steps=100)
    assert (end[0] - first.weight).abs().max() > 0.01
    torch.testing.assert_close(conserved(end), before, rtol=0, atol=1e-5)
    other = gradient_flow(objective, start, time=0.02, steps=100)
    assert (conserved(other) - before).abs().max() > 1e-3


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="first layer has 7 outputs, but the second takes 6"):
        rescale_(nn.Linear(3, 7), nn.Linear(6, 1))
    with pytest.raises(ConfigError, match="decay 0; expected"):
        relu_group_lasso(INPUTS, INPUTS[:, 0], 0)


def test_a_form_is_made_of_its_own_tensors():
    first, second = layers()
    form = unit_form(first, second)
    with torch.no_grad():
        first.weight.zero_()
        second.bias.zero_()
    assert isinstance(form, UnitForm)
    assert form.beta.abs().max() > 0
    assert form.offset.abs().max() > 0

import pytest
import torch
from torch import nn
from truths import central, close, half_squares, slopes, total_loss, without

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune.criteria import fisher, obd
from tersor.prune.scoring import ScoringData


def bends(model, data):
    """Second differences of the loss in each entry of each weight."""
    found = {}
    middle = total_loss(model, data)
    for weight in prunable(model):
        flat = weight.parameter.detach().view(-1)
        values = []
        for index in range(flat.numel()):
            old, ends = flat[index].item(), []
            for change in (1e-4, -1e-4):
                flat[index] = old + change
                ends.append(total_loss(model, data))
            flat[index] = old
            values.append((ends[0] + ends[1] - 2 * middle) / 1e-8)
        found[weight.name] = torch.tensor(values, dtype=torch.double).view(weight.shape)
    return found


def test_fisher_is_half_the_mean_square_of_each_samples_first_order_change(net, data):
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    squares = []
    for index in range(len(inputs)):
        one = ScoringData([(inputs[index : index + 1], targets[index : index + 1])])
        found = slopes(lambda one=one: total_loss(net, one), net)
        squares.append({w.name: (w.parameter.detach() * found[w.name]) ** 2 for w in prunable(net)})
    expected = {n: sum(s[n] for s in squares) / (2 * len(squares)) for n in squares[0]}
    close(fisher(net, data), expected, rtol=1e-5)
    close(obd(net, data, curvature="fisher"), expected, rtol=1e-5)


def test_exact_obd_is_half_the_second_derivative_times_the_squared_weight(net, data):
    found = bends(net, data)
    expected = {w.name: found[w.name] * w.parameter.detach() ** 2 / 2 for w in prunable(net)}
    close(obd(net, data, curvature="exact"), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("curvature", ["exact", "hutchinson", "gauss_newton"])
def test_on_a_quadratic_with_a_diagonal_hessian_obd_is_the_rise_of_the_loss(curvature):
    # Orthogonal inputs, one output, at the minimum: any probe gives the exact diagonal.
    inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0])).double()
    data = ScoringData([(inputs, inputs.sum(1, keepdim=True) * 0.5)], loss=half_squares)
    model = nn.Linear(3, 1, bias=False).double()
    model.weight.detach().fill_(0.5)
    rises = [
        without(model.weight, i, lambda: total_loss(model, data)) - total_loss(model, data)
        for i in range(3)
    ]
    scores = obd(model, data, curvature=curvature, probes=1)["weight"]
    assert scores.flatten().tolist() == pytest.approx(rises)


def test_hutchinsons_estimate_tends_to_the_exact_diagonal(net, data):
    exact, few, many = (
        obd(net, data, curvature=c, probes=n)
        for c, n in (("exact", 1), ("hutchinson", 4), ("hutchinson", 400))
    )
    scale = sum(exact[n].square().sum() for n in exact).sqrt()
    errors = [sum((s[n] - exact[n]).square().sum() for n in exact).sqrt() for s in (few, many)]
    assert errors[1] < 0.2 * scale
    assert errors[1] < errors[0] / 4  # a tenth is expected


def test_for_a_linear_model_gauss_newton_is_the_exact_curvature(data):
    # Nothing but the loss bends: softmax regression.
    model = nn.Linear(3, 2).double()
    exact, gauss_newton = (obd(model, data, curvature=c) for c in ("exact", "gauss_newton"))
    close(gauss_newton, dict(exact), rtol=1e-9)


def test_for_a_squared_error_gauss_newton_is_the_square_of_the_outputs_gradients(net, data):
    squared = ScoringData(
        [(x, torch.zeros(len(x), 2).double()) for x, _ in data.batches], half_squares
    )
    inputs = torch.cat([x for x, _ in data.batches])
    parameter = net[0].weight
    expected = torch.zeros(parameter.numel(), dtype=torch.double)
    for index in range(parameter.numel()):
        for sample in inputs:
            for output in range(2):
                slope = central(lambda: net(sample)[output].item(), parameter, index)  # noqa: B023
                expected[index] += slope**2 / len(inputs)
    expected = expected.view_as(parameter) * parameter.detach() ** 2 / 2
    found = obd(net, squared, curvature="gauss_newton")["0.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_recursion_of_the_paper_on_a_chain_of_single_units():
    # z1 = tanh(a1), a1 = u x;  z2 = tanh(a2), a2 = v z1;  loss (y - z2)**2.
    x, y, u, v = 0.7, 0.3, 0.9, -1.3
    model = nn.Sequential(
        nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False), nn.Tanh()
    )
    model = model.double()
    model[0].weight.detach().fill_(u)
    model[2].weight.detach().fill_(v)
    batch = torch.tensor([[x]]).double(), torch.tensor([[y]]).double()
    scores = obd(model, ScoringData([batch], nn.functional.mse_loss), curvature="exact")
    z1 = torch.tanh(torch.tensor(u * x)).double().item()
    z2 = torch.tanh(torch.tensor(v * z1, dtype=torch.double)).item()
    z1 = torch.tanh(torch.tensor(u * x, dtype=torch.double)).item()
    z2 = torch.tanh(torch.tensor(v * z1, dtype=torch.double)).item()
    slope1, bend1 = 1 - z1**2, -2 * z1 * (1 - z1**2)
    slope2, bend2 = 1 - z2**2, -2 * z2 * (1 - z2**2)
    in_a2 = 2 * slope2**2 - 2 * (y - z2) * bend2
    to_z1 = -2 * (y - z2) * slope2 * v
    in_a1 = slope1**2 * v**2 * in_a2 + bend1 * to_z1
    assert scores["2.weight"].item() == pytest.approx(in_a2 * z1**2 * v**2 / 2)
    assert scores["0.weight"].item() == pytest.approx(in_a1 * x**2 * u**2 / 2)


def test_errors_name_what_is_wrong(net, data):
    with pytest.raises(ConfigError, match="obd: curvature 'hutchison': did you mean 'hutchinson'"):
        obd(net, data, curvature="hutchison")
    with pytest.raises(ConfigError, match="obd: probes 0; expected at least 1"):
        obd(net, data, probes=0)
    with pytest.raises(ConfigError, match="criterion 'fisher' looks at data"):
        fisher(net, ScoringData())

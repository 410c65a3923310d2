"""What criteria are compared with: losses of changed models, and differences of them."""

import torch
from torch import nn

from tersor.core import prunable


def total_loss(model, data):
    """The mean loss over all samples, in one batch; a number."""
    model.eval()
    with torch.no_grad():
        inputs = torch.cat([x for x, _ in data.batches])
        targets = torch.cat([y for _, y in data.batches])
        return data.loss(model(inputs), targets).item()


def central(function, parameter, index, step=1e-5):
    """The central difference of a function in one entry of a parameter."""
    entry = parameter.detach().view(-1)[index]
    old = entry.item()
    values = []
    for sign in (1, -1):
        entry.fill_(old + sign * step)
        values.append(function())
    entry.fill_(old)
    return (values[0] - values[1]) / (2 * step)


def slopes(function, model):
    """Central differences of a function in each entry of each weight, by name."""
    found = {}
    for weight in prunable(model):
        parameter = weight.parameter
        values = [central(function, parameter, i) for i in range(parameter.numel())]
        found[weight.name] = torch.tensor(values, dtype=torch.double).view(parameter.shape)
    return found


def without(parameter, index, function):
    """A function's value while one entry of a parameter, or several, are 0."""
    flat = parameter.detach().view(-1)
    old = flat[index].clone()
    flat[index] = 0
    value = function()
    flat[index] = old
    return value


def close(found, expected, rtol=1e-6, atol=1e-9):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=rtol, atol=atol)


def half_squares(outputs, targets):
    """Half the squared error, summed over the outputs, the mean over samples."""
    return (outputs - targets).square().sum() / (2 * len(outputs))


def least_squares(model, data):
    """Set a linear layer to the minimum of the squared error on the data."""
    inputs = torch.cat([x for x, _ in data.batches])
    targets = torch.cat([y for _, y in data.batches])
    assert isinstance(model, nn.Linear)
    assert model.bias is None
    model.weight.detach().copy_(torch.linalg.lstsq(inputs, targets).solution.t())

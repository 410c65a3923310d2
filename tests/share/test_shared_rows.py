from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import SharedRows, share_rows_


def layer_of_pairs() -> nn.Conv2d:
    """Inputs 0 and 3 are alike, 1 and 4 are alike, 2 is zero, 5 is alone."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        weight = conv.weight
        weight[:, 3] = weight[:, 0] * 1.01
        weight[:, 4] = weight[:, 1] - 0.001
        weight[:, 2] = 0
    return conv


def test_rows_that_are_near_have_their_mean_and_others_stay():
    conv = layer_of_pairs()
    before = conv.weight.detach().clone()
    clusters, report = share_rows_(conv, 0.05)
    codes = clusters["weight"].tolist()
    assert codes[2] == -1
    assert codes[0] == codes[3]
    assert codes[1] == codes[4]
    assert sorted({codes[0], codes[1], codes[5]}) == [0, 1, 2]
    weight = conv.weight.detach()
    for one, other in ((0, 3), (1, 4)):
        assert torch.equal(weight[:, one], weight[:, other])
        torch.testing.assert_close(weight[:, one], (before[:, one] + before[:, other]) / 2)
    assert torch.equal(weight[:, 5], before[:, 5])
    assert not bool(weight[:, 2].any())
    assert report.rows == [{"name": "weight", "rows": 6, "zero": 1, "clusters": 3, "numbers": 108}]


def test_training_on_is_training_a_layer_with_one_row_a_cluster():
    conv = layer_of_pairs()
    clusters, _ = share_rows_(conv, 0.05)
    codes = clusters["weight"]
    small = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    firsts = [codes.tolist().index(k) for k in range(3)]
    small.weight.data.copy_(conv.weight.data[:, firsts])
    small.bias.data.copy_(conv.bias.data)
    inputs = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    summed = torch.stack([inputs[:, codes == k].sum(1) for k in range(3)], dim=1)
    optimizers = [torch.optim.Adam(m.parameters(), 0.05) for m in (conv, small)]
    with SharedRows(conv, clusters).attach(optimizers[0]):
        for _ in range(6):
            for optimizer, net, given in zip(
                optimizers, (conv, small), (inputs, summed), strict=True
            ):
                optimizer.zero_grad()
                net(given).pow(3).mean().backward()
                optimizer.step()
    torch.testing.assert_close(conv.weight[:, firsts], small.weight)
    assert torch.equal(conv.weight[:, 0], conv.weight[:, 3])
    assert not bool(conv.weight[:, 2].any())


def test_a_killed_run_goes_on_as_if_it_had_not_been():
    def steps(method, optimizer, layer, count):
        with method.attach(optimizer):
            for _ in range(count):
                optimizer.zero_grad()
                layer(torch.ones(2, 6, 4, 4, dtype=torch.float64)).square().mean().backward()
                optimizer.step()

    whole = layer_of_pairs()
    clusters, _ = share_rows_(whole, 0.05)
    parts = copy.deepcopy(whole)
    make = lambda layer: torch.optim.SGD(layer.parameters(), 0.1)  # noqa: E731
    steps(SharedRows(whole, clusters), make(whole), whole, 4)
    first = SharedRows(parts, clusters)
    steps(first, make(parts), parts, 2)
    again = SharedRows(parts, {"weight": torch.zeros(6, dtype=torch.int64)})
    again.load_state_dict(first.state_dict())
    steps(again, make(parts), parts, 2)
    assert torch.equal(whole.weight, parts.weight)


def test_all_rows_zero_stay_zero():
    layer = nn.Linear(3, 2)
    layer.weight.data.zero_()
    clusters, report = share_rows_(layer)
    assert report.rows[0]["clusters"] == 0
    optimizer = torch.optim.SGD(layer.parameters(), 1.0)
    with SharedRows(layer, clusters).attach(optimizer):
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert not bool(layer.weight.any())


def test_what_does_not_fit_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="tolerance: -1; expected 0 or more"):
        share_rows_(layer, -1)
    with pytest.raises(ConfigError, match="clusters 'weight': Linear has no such weight with 4 in"):
        SharedRows(layer, {"weight": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(ConfigError, match="clusters 'other'"):
        SharedRows(layer, {"other": torch.zeros(3, dtype=torch.int64)})

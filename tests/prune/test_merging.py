"""Merged networks give what they gave: exactly, where units depend on each other exactly."""

import numpy as np
import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.equivalence import relu_group_lasso
from tersor.prune.merging import merge_units_


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mlp() -> nn.Sequential:
    """Two hidden layers; of the first, units 1, 4 and 5 depend on unit 0 and 6, 7 are constant."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    net = net.double()
    first = net[0]
    with torch.no_grad():
        for unit, factor in ((1, 2.0), (4, 0.3), (5, 1.0)):
            first.weight[unit] = factor * first.weight[0]
            first.bias[unit] = factor * first.bias[0]
        first.weight[6] = 0.0
        first.bias[6] = 1.5
        first.bias[7] = -1e6  # never on
    return net


def test_exact_copies_and_constants_go_and_the_outputs_stay():
    net, x = mlp(), inputs(64, 5)
    before = net(x)
    masks, report = merge_units_(net, [("0", "2")], [(x, None)], correlation=1.0)
    assert report.rows[0] == {
        "first": "0",
        "second": "2",
        "units": 8,
        "constant": 2,
        "merged": 3,
        "left": 3,
    }
    assert (net(x) - before).abs().max() < 1e-10
    assert (net(inputs(200, 5)) - mlp()(inputs(200, 5))).abs().max() < 1e-10  # not this data alone
    for name in ("0.weight", "2.weight"):
        weight = net.state_dict()[name]
        assert torch.equal(weight[~masks[name]], torch.zeros((~masks[name]).sum()).double())
    gone = ~masks["2.weight"].any(dim=0)
    assert int(gone.sum()) == 5
    assert torch.equal(gone, ~masks["0.weight"].any(dim=1))
    assert net[0].bias[gone].abs().max() == 0
    assert masks.density == report.summary["density reached"] == 3 / 8


def test_a_second_merging_finds_nothing_left():
    net, x = mlp(), inputs(64, 5)
    merge_units_(net, [("0", "2")], [(x, None)])
    before = [t.clone() for t in net.parameters()]
    _, report = merge_units_(net, [("0", "2")], [(x, None)])
    assert report.summary["units gone"] == 0
    assert report.rows[0]["units"] == 3
    assert all(map(torch.equal, before, net.parameters()))


def test_alpha_and_beta_are_the_least_squares_fit_of_numpy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight[1] = 1.2 * net[0].weight[0]  # after tanh, nearly dependent
        net[0].bias[1] = net[0].bias[0] + 0.3
    x = inputs(50, 3)
    hidden = torch.tanh(net[0](x)).detach().numpy()
    old = net[2].weight.detach().clone()
    weighed = np.std(hidden, axis=0) * old.abs().numpy()[0]
    goes, stays = (0, 1) if weighed[0] < weighed[1] else (1, 0)
    alpha, beta = np.polyfit(hidden[:, stays], hidden[:, goes], 1)
    expected = [
        float(old[0, stays] + alpha * old[0, goes]),
        (net[2].bias + beta * old[0, goes]).item(),
    ]
    masks, _ = merge_units_(net, [("0", "2")], [(x[:20], None), (x[20:], None)], correlation=0.9)
    assert masks["2.weight"][0].tolist() == [stays == 0, stays == 1]
    found = [net[2].weight[0, stays].item(), net[2].bias.item()]
    assert found == pytest.approx(expected, rel=1e-10)


def test_what_is_lost_is_the_variance_that_the_correlation_leaves():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight[1] = net[0].weight[0] + 0.2 * net[0].weight[1]
    x = inputs(80, 3)
    hidden = torch.tanh(net[0](x)).detach()
    c = float(np.corrcoef(hidden.T.numpy())[0, 1])
    before = net(x).detach()
    loss = (hidden.std(dim=0, correction=0) * net[2].weight[0].abs()).min() ** 2 * (1 - c**2)
    merge_units_(net, [("0", "2")], [(x, None)], correlation=abs(c) - 0.01)
    change = net(x).detach() - before
    assert change.mean().item() == pytest.approx(0, abs=1e-12)  # beta is there for that
    assert change.square().mean().item() == pytest.approx(loss.item(), rel=1e-9)


def test_units_below_the_correlation_stay():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    before = [t.clone() for t in net.parameters()]
    masks, report = merge_units_(net, [("0", "2")], [(inputs(64, 5), None)])
    assert report.summary["units gone"] == 0
    assert masks.density == 1
    assert all(map(torch.equal, before, net.parameters()))


def test_filters_are_merged_through_batch_norm_pooling_and_flattening():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="replicate"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    ).double()
    x = inputs(32, 1, 10, 10)
    with torch.no_grad():
        net[0].weight[3], net[0].bias[3] = net[0].weight[1], net[0].bias[1]
        net[1].bias[3] = 0.0  # relu(bn) of the same, times 0.7
        net[1].weight[3] = 0.7 * net[1].weight[1]
        net[1].weight[5] = 0.0  # a constant filter
        net[1].bias[5] = 0.4
        net[3].weight[2], net[3].bias[2] = -2 * net[3].weight[0], -2 * net[3].bias[0] - 50.0
    net(x)  # running statistics that are not 0 and 1
    net.train()
    state = {n: t.clone() for n, t in net.named_buffers()}
    eval_before = net.eval()(x).detach()
    net.train()
    masks, report = merge_units_(net, [("0", "3"), ("3", "7")], [(x, None)], correlation=1.0)
    assert net.training
    assert all(torch.equal(t, state[n]) for n, t in net.named_buffers())
    assert [(row["constant"], row["merged"]) for row in report.rows] == [(1, 1), (1, 0)]
    assert (net.eval()(x) - eval_before).abs().max() < 1e-10
    assert masks["7.weight"].view(3, 4, 16).any(dim=2).any(dim=0).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_merging_into_a_pruned_network_never_keeps_more():
    net, x = mlp(), inputs(64, 5)
    random = torch.Generator().manual_seed(2)
    given = MaskSet({"2.weight": torch.rand(6, 8, generator=random) < 0.5})
    given.apply(net)
    before = net(x)
    masks, _ = merge_units_(net, [("0", "2")], [(x, None)], correlation=1.0, masks=given)
    assert (net(x) - before).abs().max() < 1e-10
    assert int(masks["2.weight"].sum()) <= int(given["2.weight"].sum())
    assert net[2].weight[~masks["2.weight"]].abs().max() == 0
    assert torch.equal(
        given["2.weight"], MaskSet(given)["2.weight"]
    )  # the given ones are as before


def test_units_that_weight_decay_left_parallel_are_one():
    """A least solution may hold the same unit many times; its group-lasso form has it once."""
    x = inputs(6, 2)
    y = x[:, 0].relu() - 0.5 * x[:, 1]
    form = relu_group_lasso(x, y, 0.2)
    first, second = form.layers()
    copies = nn.Sequential(
        nn.Linear(2, 3 * len(form.beta), dtype=torch.float64),
        nn.ReLU(),
        nn.Linear(3 * len(form.beta), 1, dtype=torch.float64),
    )
    with torch.no_grad():
        copies[0].weight.copy_(first.weight.repeat(3, 1))
        copies[0].bias.zero_()
        copies[2].weight.copy_(second.weight.repeat(1, 3) / 3)
        copies[2].bias.zero_()
    before = copies(x)
    _, report = merge_units_(copies, [("0", "2")], [(x, None)], correlation=1.0)
    assert report.rows[0]["left"] <= len(form.beta)
    assert (copies(x) - before).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("net", "chain", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), ("0", "7"), "no module '7'"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), ("0", "1"), "'1' is a ReLU; expected a linear"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1)), ("0", "1"), "3 units, but '1' takes 4"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False)),
            ("0", "1"),
            "'1' has no bias",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1)),
            ("0", "1"),
            "'1' pads with zeros",
        ),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), ("0", "1"), "nothing came to '1'"),
    ],
)
def test_what_cannot_be_merged_is_said(net, chain, message):
    with pytest.raises(ConfigError, match=message):
        merge_units_(net, [chain], None)


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"correlation 1\.5, deviation 0\.001; expected"):
        merge_units_(mlp(), [("0", "2")], None, correlation=1.5)

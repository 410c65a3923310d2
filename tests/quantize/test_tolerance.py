import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, fewest_bits, mixed_precision, quantize_

GRIDS = [Affine(bits) for bits in (2, 3, 4, 6, 8)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
WANTED = network()(INPUTS).detach()


def wrong(model):
    with torch.no_grad():
        return float((model(INPUTS) - WANTED).square().mean())


def test_what_it_gives_is_good_enough_and_a_smaller_budget_that_was_tried_is_not():
    model, bits = network(), []
    before = copy.deepcopy(model.state_dict())
    for tolerance in (1e-5, 1e-4, 1e-3, 1e-2):
        chosen, report = fewest_bits(model, GRIDS, wrong, tolerance)
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
        one = copy.deepcopy(model)
        quantize_(one, chosen)
        assert wrong(one) <= tolerance
        bits.append(report.summary["bits a weight"])
        [tries] = report.sections
        refused = [row["budget"] for row in tries.rows if not row["good enough"]]
        good = [row["budget"] for row in tries.rows if row["good enough"]]
        assert report.summary["budget"] == min(good)
        assert min(good) - max(refused, default=min(good)) <= 0.1
        assert chosen == mixed_precision(model, GRIDS, min(good), sensitivity="sqnr")[0]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > bits[-1]


def test_a_tolerance_that_all_meet_gives_the_narrowest_after_three_evaluations():
    calls = []
    chosen, report = fewest_bits(network(), GRIDS, lambda model: len(calls.append(1) or []), 0)
    assert {quantizer.bits for quantizer in chosen.values()} == {2}
    assert len(calls) == 3
    assert report.sections[0].summary["tolerance"] == 0


def test_costs_by_loss_are_told_once_for_all_budgets():
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return (outputs - targets).square().mean()

    _, report = fewest_bits(
        network(), GRIDS, wrong, 1e-3, sensitivity="loss", data=[(INPUTS, WANTED)], loss=loss
    )
    assert len(calls) == 1 + 3 * len(GRIDS)
    assert len(report.sections[0].rows) > 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tolerance": 1e-12}, "tolerance 1e-12: not reachable, with the widest"),
        ({"tolerance": -1}, "tolerance: -1; expected"),
        ({"tolerance": 1, "resolution": 0}, "resolution: 0; expected"),
        ({"tolerance": 1, "sensitivity": "loss"}, "looks at data"),
        ({"tolerance": 1, "evaluate": lambda model: float("nan")}, "evaluate: nan for the network"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(options, match):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=match):
        fewest_bits(model, GRIDS, **{"evaluate": wrong} | options)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())

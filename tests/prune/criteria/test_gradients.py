import pytest
import torch
from torch import nn
from truths import close, slopes, total_loss

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune import CRITERIA, prune_
from tersor.prune.criteria import gradient_magnitude, snip, taylor
from tersor.prune.scoring import ScoringData


def test_gradient_magnitude_is_the_slope_of_the_loss(net, data):
    expected = {n: s.abs() for n, s in slopes(lambda: total_loss(net, data), net).items()}
    close(gradient_magnitude(net, data), expected)


def test_snip_is_the_slope_of_the_loss_in_a_multiplier_of_the_weight(net, data):
    for weight in prunable(net):
        found = snip(net, data)[weight.name]
        original = weight.parameter.detach().clone()
        multiplier = torch.ones_like(original)
        for index in range(multiplier.numel()):
            losses = []
            for change in (1e-5, -1e-5):
                multiplier.view(-1)[index] = 1 + change
                weight.parameter.detach().copy_(original * multiplier)
                losses.append(total_loss(net, data))
            multiplier.view(-1)[index] = 1
            weight.parameter.detach().copy_(original)
            slope = abs(losses[0] - losses[1]) / 2e-5
            assert found.view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_taylor_is_the_mean_over_batches_of_squares(net, data):
    squares = []
    for batch in data.batches:
        one = ScoringData([batch])
        found = slopes(lambda one=one: total_loss(net, one), net)
        squares.append({w.name: (w.parameter.detach() * found[w.name]) ** 2 for w in prunable(net)})
    close(taylor(net, data), {n: (squares[0][n] + squares[1][n]) / 2 for n in squares[0]})


def test_taylor_of_one_batch_orders_as_snip(net, data):
    one = ScoringData(data.batches[:1])
    first, second = taylor(net, one), snip(net, one)
    assert all(
        torch.equal(first[n].flatten().argsort(), second[n].flatten().argsort()) for n in first
    )


def test_snip_sees_the_same_in_one_batch_and_in_several(net, data):
    inputs, targets = (torch.cat(parts) for parts in zip(*data.batches, strict=True))
    close(snip(net, data), dict(snip(net, ScoringData([(inputs, targets)]))))


def test_a_tied_weight_is_scored_by_the_sum_of_its_uses(data):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    expected = slopes(lambda: total_loss(model, data), model)
    assert list(expected) == ["0.weight"]
    close(gradient_magnitude(model, data), {"0.weight": expected["0.weight"].abs()})


def test_a_weight_that_is_not_used_scores_zero(data):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, inputs):
            return self.used(inputs)

    model = Partly().double()
    for name in ("gradient_magnitude", "snip", "taylor", "grasp", "movement", "fisher", "obd"):
        scores = CRITERIA[name](model, data)
        assert not scores["unused.weight"].any()
        assert scores["used.weight"].any()


def test_no_data_is_an_error_that_says_what_to_give(net):
    with pytest.raises(ConfigError, match=r"criterion 'snip' looks at data.*expected data="):
        snip(net, ScoringData())
    with pytest.raises(ConfigError, match="criterion 'taylor' looks at data"):
        prune_(net, 0.5, criterion="taylor")


def test_parameters_that_are_added_have_scores_of_their_own(data):
    # Both have the same gradient, for which autograd gives one and the same tensor.
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

        def forward(self, inputs):
            return nn.functional.linear(inputs, self.a.weight + self.b.weight)

    model = Sum().double()
    weights = {"a.weight": model.a.weight.detach(), "b.weight": model.b.weight.detach()}
    for given in (ScoringData(data.batches[:1]), data):
        found = slopes(lambda given=given: total_loss(model, given), model)
        close(gradient_magnitude(model, given), {n: s.abs() for n, s in found.items()})
        expected = {name: weight * found[name] for name, weight in weights.items()}
        close(snip(model, given), {n: e.abs() for n, e in expected.items()})
        if given is not data:  # of several batches it is the mean of their squares
            close(taylor(model, given), {n: e.square() for n, e in expected.items()})

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.weights import prunable
from tersor.prune.lottery import TicketSettings, kept_after
from tersor.prune.lottery.ladder import Ladder
from tersor.tasks import build_model


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10), nn.Linear(10, 5))


def ladder_of(model: nn.Module, **settings: object) -> Ladder:
    weights = prunable(model)
    return Ladder.of(model, weights, TicketSettings(steps=10, rounds=4, **settings))


def full(model: nn.Module) -> MaskSet:
    return MaskSet.full(prunable(model))


def scores_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {weight.name: weight.parameter.detach().abs() for weight in prunable(model)}


def test_the_ladder_of_lenet_300_100_is_that_of_the_paper():
    ladder = ladder_of(build_model("lenet-300-100"))
    percent = {level: round(100 * ladder.density(level), 1) for level in range(17)}
    published = {0: 100, 1: 80.0, 2: 64.1, 3: 51.3, 4: 41.1, 5: 32.9, 7: 21.1, 9: 13.5}
    published |= {15: 3.6, 16: 2.9}
    assert {level: percent[level] for level in published} == published


def test_masks_have_exactly_as_many_weights_as_the_ladder_says_and_are_nested(net):
    ladder = ladder_of(net)
    masks = full(net)
    for level in range(1, 12):
        generator = torch.Generator().manual_seed(level)  # another order every time
        scores = {n: torch.rand(m.shape, generator=generator) for n, m in masks.items()}
        before, masks = masks, ladder.masks(level, scores, masks)
        assert {n: int(m.sum()) for n, m in masks.items()} == {
            "0.weight": max(1, round(200 * 0.8**level)),
            "1.weight": max(1, round(200 * 0.8**level)),
            "2.weight": max(1, round(50 * 0.9**level)),
        }
        assert masks.kept == ladder.kept(level)
        assert all((before[n] | ~masks[n]).all() for n in masks)


def test_no_rounding_adds_up_and_no_tensor_is_left_empty():
    assert [kept_after(r, 3, 0.5) for r in range(4)] == [3, 2, 1, 1]
    assert kept_after(40, 10**6, 0.2) == round(10**6 * 0.8**40)


def test_of_the_living_the_highest_scores_are_kept(net):
    ladder = ladder_of(net)
    scores = scores_of(net)
    first = ladder.masks(1, scores, full(net))
    second = ladder.masks(2, {n: -s for n, s in scores.items()}, first)  # now the least
    for name, score in scores.items():
        order = score.flatten().sort(descending=True).indices
        count = int(first[name].sum())
        best = order[:count]
        assert set(best.tolist()) == set(first[name].flatten().nonzero().flatten().tolist())
        left = best[count - int(second[name].sum()) :]
        assert set(left.tolist()) == set(second[name].flatten().nonzero().flatten().tolist())


def test_ties_are_kept_by_index(net):
    masks = ladder_of(net).masks(
        1, {n: torch.zeros_like(m) for n, m in scores_of(net).items()}, full(net)
    )
    assert masks["0.weight"].flatten().tolist() == [True] * 160 + [False] * 40


def test_a_dead_weight_stays_dead_even_if_a_living_one_scores_lower(net):
    ladder = ladder_of(net)
    first = ladder.masks(1, scores_of(net), full(net))
    upside_down = {n: (~m).double() * 9 - 5 for n, m in first.items()}
    second = ladder.masks(2, upside_down, first)
    assert all((first[n] | ~second[n]).all() for n in second)


def test_the_global_pool_is_cut_at_one_threshold(net):
    ladder = ladder_of(net, allocation="global")
    scores = scores_of(net)
    masks = ladder.masks(2, scores, full(net))
    assert masks.kept == round(450 * 0.8**2) == ladder.kept(2)
    kept = torch.cat([scores[n][masks[n]] for n in scores])
    gone = torch.cat([scores[n][~masks[n]] for n in scores])
    assert kept.min() > gone.max()


def test_layers_with_a_fraction_of_their_own_stay_out_of_the_pool(net):
    own = {"0": 0.0, "re:1": 0.5}
    ladder = ladder_of(net, allocation="global", layer_drop_fractions=own, output_drop_fraction=0.1)
    masks = ladder.masks(1, scores_of(net), full(net))
    assert {n: int(m.sum()) for n, m in masks.items()} == {
        "0.weight": 200,
        "1.weight": 100,
        "2.weight": 45,
    }
    ladder = ladder_of(net, allocation="global", layer_drop_fractions={"0": 0.0})
    masks = ladder.masks(1, scores_of(net), full(net))
    assert masks["0.weight"].all()
    assert masks.kept == 200 + round(250 * 0.8)


def test_the_output_layer_loses_half_unless_told_otherwise(net):
    assert int(ladder_of(net).masks(1, scores_of(net), full(net))["2.weight"].sum()) == 45
    told = ladder_of(net, output_drop_fraction=0.4)
    assert int(told.masks(1, scores_of(net), full(net))["2.weight"].sum()) == 30


def test_scores_without_an_order_and_layers_without_weights_are_refused(net):
    scores = scores_of(net)
    scores["1.weight"][0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"level 1: the scores of '1.weight' hold NaN"):
        ladder_of(net).masks(1, scores, full(net))
    ranked = {n: torch.full_like(m, float(i)) for i, (n, m) in enumerate(scores_of(net).items())}
    with pytest.raises(ConfigError, match=r"level 4: '0.weight' is left empty \(0 of 200"):
        ladder_of(net, allocation="global").masks(4, ranked, full(net))


def test_a_selector_that_matches_nothing_is_an_error(net):
    with pytest.raises(ConfigError, match="selector 'fc9'"):
        ladder_of(net, layer_drop_fractions={"fc9": 0.1})

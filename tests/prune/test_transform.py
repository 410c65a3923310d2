import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune import ALLOCATIONS, ScoringData, prune_


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    ).to(dtype)


def live(model: nn.Module) -> dict[str, int]:
    state = model.state_dict()
    return {n: int((t != 0).sum()) for n, t in state.items() if n in weights_of(model)}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1}


def first_weights(model: nn.Module, data) -> dict[str, torch.Tensor]:
    """A criterion that likes the front of each tensor."""
    return {
        n: -torch.arange(p.numel(), dtype=torch.float).view(p.shape)
        for n, p in weights_of(model).items()
    }


@given(density=st.floats(0.2, 1), allocation=st.sampled_from(sorted(ALLOCATIONS)))
def test_exactly_the_rounded_share_stays_as_it_was_and_the_rest_is_plus_zero(density, allocation):
    model, before = net(), net().state_dict()
    masks, report = prune_(model, density, allocation=allocation)
    assert sum(live(model).values()) == masks.kept == round(density * 150)
    for name, mask in masks.items():
        after = model.state_dict()[name]
        assert torch.equal(after[mask], before[name][mask])
        assert after[~mask].view(torch.int32).eq(0).all()
    rest = set(before) - set(masks)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in rest)
    assert report.summary["kept"] == masks.kept


@pytest.mark.parametrize("density", [0.9, 0.5, 0.31])
def test_global_magnitude_is_torchs_global_unstructured(density):
    ours, theirs = net(), net()
    masks, _ = prune_(ours, density)
    layers = {"0": theirs[0], "3": theirs[3], "4": theirs[4]}
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=torch_prune.L1Unstructured,
        amount=150 - round(density * 150),
    )
    for number, layer in layers.items():
        assert torch.equal(masks[f"{number}.weight"], layer.weight_mask.bool())
        assert torch.equal(ours[int(number)].weight, layer.weight)


def test_pruning_to_ever_smaller_densities_is_pruning_at_once():
    step_by_step, at_once = net(), net()
    for density in (0.8, 0.6, 0.4):
        prune_(step_by_step, density)
    prune_(at_once, 0.4)
    for one, other in zip(step_by_step.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_weights_of_every_floating_type_are_pruned_exactly(dtype, allocation):
    model = net(dtype)
    prune_(model, 0.4, allocation=allocation)
    assert sum(live(model).values()) == 60


def test_densities_per_layer_by_selector_leave_the_others_alone():
    model = net()
    masks, report = prune_(model, {"0": 0.25, "re:3": 0.5})
    assert live(model) == {"0.weight": 9, "3.weight": 48, "4.weight": 18}
    assert list(masks) == ["0.weight", "3.weight"]
    assert report.skipped["4.weight"] == "no density given"
    assert report.summary["density asked"] == "per layer"


def test_a_density_for_a_type_is_for_each_of_its_layers():
    model = net()
    prune_(model, {nn.Linear: 0.5})
    assert live(model) == {"0.weight": 36, "3.weight": 48, "4.weight": 9}


def test_two_selectors_may_agree_but_not_conflict():
    prune_(net(), {"3": 0.5, "re:3": 0.5})
    with pytest.raises(ConfigError, match=r"two selectors name '3.weight', with 0.5 and 0.25"):
        prune_(net(), {"3": 0.5, "Linear": 0.25})


def test_select_and_ignore_decide_what_takes_part():
    model = net()
    _, report = prune_(model, 0.5, ignore="4")
    assert sum(live(model).values()) == 66 + 18
    assert report.skipped["4.weight"] == "ignored"
    assert [row["name"] for row in report.rows] == ["0.weight", "3.weight"]


@pytest.mark.parametrize("density", [2.0, 0, -0.1, math.nan, {"0": 2.0}, {"0": 0.5, "3": -0.1}])
def test_a_density_out_of_range_changes_nothing(density):
    model, before = net(), net()
    value = list(density.values())[-1] if isinstance(density, dict) else density
    with pytest.raises(ConfigError, match=f"density: {value}; expected 0 < density <= 1"):
        prune_(model, density)
    assert all(map(torch.equal, model.parameters(), before.parameters()))


def test_no_density_at_all_is_an_error():
    with pytest.raises(ConfigError, match="density: an empty mapping"):
        prune_(net(), {})


def test_a_tensor_that_would_be_left_empty_is_named_and_nothing_is_changed():
    model = net()
    with torch.no_grad():
        model[4].weight.mul_(1e-6)
    before = model[3].weight.detach().clone()
    with pytest.raises(ConfigError, match=r"density 0.2 leaves '4.weight' empty \(0 of 18 "):
        prune_(model, 0.2)
    assert torch.equal(model[3].weight, before)
    with pytest.raises(ConfigError, match=r"density 0.01 leaves '4.weight' empty"):
        prune_(model, {"3": 0.5, "4": 0.01})
    prune_(model, 0.2, allocation="lamp")
    assert live(model)["4.weight"] >= 1


def test_a_weight_that_is_nan_is_named():
    model = net()
    with torch.no_grad():
        model[3].weight[2, 1] = math.nan
    with pytest.raises(ConfigError, match=r"'3.weight' hold NaN"):
        prune_(model, 0.5)


def test_equal_weights_go_from_the_end_of_a_tensor_and_of_the_model():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for layer in model:
        nn.init.constant_(layer.weight, -0.5)
    masks, _ = prune_(model, 0.7)
    assert [mask.flatten().tolist() for mask in masks.values()] == [
        [True] * 6,
        [True, False, False, False],
    ]


def test_a_criterion_of_the_users_own_is_asked_with_the_data():
    seen = []

    def criterion(model, data):
        seen.append(data)
        return first_weights(model, data)

    masks, _ = prune_(net(), 0.5, criterion=criterion, allocation="uniform", data=[1, 2])
    assert [data.batches for data in seen] == [[1, 2]]
    assert all(
        mask.flatten().sort(descending=True).values.equal(mask.flatten()) for mask in masks.values()
    )


def test_an_allocation_of_the_users_own_decides_the_counts():
    def one_more_each(scores, density):
        return {name: i + 1 for i, name in enumerate(scores)}

    model = net()
    prune_(model, 0.5, allocation=one_more_each)
    assert live(model) == {"0.weight": 1, "3.weight": 2, "4.weight": 3}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"0.weight": 37, "3.weight": 2, "4.weight": 3}, "37 for '0.weight'; .*0 to 36"),
        ({"0.weight": 30, "3.weight": -1, "4.weight": 3}, "-1 for '3.weight'; .*0 to 96"),
        ({"0.weight": 30, "3.weight": 2}, "None for '4.weight'; .*0 to 18"),
    ],
)
def test_an_allocation_that_gives_what_cannot_be_kept_is_refused(counts, message):
    with pytest.raises(ConfigError, match=message):
        prune_(net(), 0.5, allocation=lambda scores, density: counts)


def test_a_criterion_that_misses_a_weight_is_refused():
    with pytest.raises(ConfigError, match=r"no scores of shape \(6, 16\) for '3.weight'"):
        prune_(net(), 0.5, criterion=lambda m, d: first_weights(m, d) | {"3.weight": torch.ones(6)})


@pytest.mark.parametrize("what", ["criterion", "allocation"])
def test_an_unknown_name_is_answered_with_a_near_miss(what):
    word, near = {"criterion": ("magnitud", "magnitude"), "allocation": ("globl", "global")}[what]
    with pytest.raises(ConfigError, match=f"{what} '{word}': did you mean '{near}'"):
        prune_(net(), 0.5, **{what: word})


def test_a_weight_without_entries_is_no_obstacle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on initialising nothing
        model = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2))
    _, report = prune_(model, 0.5)
    assert live(model) == {"0.weight": 0, "1.weight": 3}
    assert report.rows[0]["density"] == 0


def test_the_report_says_what_was_reached_per_tensor():
    _, report = prune_(net(), 0.5, allocation="uniform")
    assert report.summary == {"density asked": 0.5, "density reached": 0.5, "kept": 75}
    assert report.rows[0] == {
        "name": "0.weight",
        "kind": "conv",
        "shape": "4x1x3x3",
        "weights": 36,
        "kept": 18,
        "density": 0.5,
    }
    assert set(report.skipped) == {"0.bias", "1.weight", "1.bias", "3.bias", "4.bias"}


def counted(log: list[int]):
    """A criterion whose order is another one each time, and that counts its calls."""

    def criterion(model, data):
        log.append(sum(live(model).values()))
        generator = torch.Generator().manual_seed(len(log))
        return {n: torch.rand(p.shape, generator=generator) for n, p in weights_of(model).items()}

    return criterion


def test_rounds_follow_the_schedule_and_are_nested():
    log, seen = [], []
    masks, _ = prune_(
        net(),
        0.064,
        criterion=counted(log),
        allocation="lamp",
        rounds=3,
        between=lambda model, masks: seen.append(masks),
    )
    assert log == [150, round(0.4 * 150), round(0.16 * 150)]
    assert [m.kept for m in seen] == [60, 24]
    assert masks.kept == round(0.064 * 150)
    for large, small in itertools.pairwise([*seen, masks]):
        assert all((large[n] | ~small[n]).all() for n in small)


def test_between_two_rounds_the_model_may_be_trained_under_its_masks():
    model, calls = net(), []

    def fine_tune(model, masks):
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        with masks.attach(model, optimizer):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        calls.append(sum(live(model).values()))

    prune_(model, 0.2, rounds=4, schedule="linear", between=fine_tune)
    assert calls == [120, 90, 60]
    assert sum(live(model).values()) == 30


def test_one_round_of_each_schedule_is_what_no_schedule_is():
    plain, _ = prune_(net(), {"0": 0.25, "3": 0.5})
    for schedule in ("one_shot", "linear", "cubic", "geometric"):
        masks, _ = prune_(net(), {"0": 0.25, "3": 0.5}, schedule=schedule)
        assert all(torch.equal(masks[n], plain[n]) for n in plain)


def test_densities_per_layer_fall_by_rounds_too():
    seen = []
    prune_(
        net(),
        {"0": 0.25, "3": 0.5},
        rounds=2,
        schedule="linear",
        between=lambda model, masks: seen.append({n: int(m.sum()) for n, m in masks.items()}),
    )
    assert seen == [{"0.weight": round(0.625 * 36), "3.weight": 72}]


def test_what_the_masks_to_begin_with_do_not_keep_is_zero_from_then_on():
    model = net()
    dead = torch.arange(96).view(6, 16) % 2 == 0
    begin = MaskSet({"3.weight": ~dead})
    masks, _ = prune_(model, 0.5, masks=begin, allocation="lamp", criterion=counted([]))
    assert masks.kept == 75
    assert not masks["3.weight"][dead].any()
    assert not model[3].weight[dead].any()
    masks, report = prune_(net(), 0.9, masks=begin)  # more than is left
    assert (masks.kept, report.summary["density reached"]) == (102, 102 / 150)
    with pytest.raises(ConfigError, match=r"'3.weight' has shape \(3,\), but .* \(6, 16\)"):
        prune_(net(), 0.5, masks=MaskSet({"3.weight": torch.ones(3, dtype=torch.bool)}))


def test_a_repair_sees_the_old_weights_and_what_goes_is_zero_after_it():
    model, before, seen = net(), net(), []

    def double(model, masks, data):
        seen.append(data.seed)
        assert torch.equal(model[3].weight, before[3].weight)
        model[3].weight.data.mul_(2)

    masks, _ = prune_(model, 0.5, repair=double, data=ScoringData(seed=7))
    assert seen == [7]
    assert torch.equal(model[3].weight, before[3].weight * 2 * masks["3.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds: 0; expected 1 or more"),
        ({"schedule": "linaer"}, "schedule 'linaer': did you mean 'linear'"),
        ({"repair": "nothing"}, "repair 'nothing': "),
    ],
)
def test_wrong_rounds_are_named_before_anything_is_changed(wrong, message):
    model = net()
    with pytest.raises(ConfigError, match=message):
        prune_(model, 0.5, **wrong)
    assert all(map(torch.equal, model.parameters(), net().parameters()))

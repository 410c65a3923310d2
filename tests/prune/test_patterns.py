import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune import PATTERNS, prune_
from tersor.prune.patterns import pattern_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 12), nn.Linear(12, 4)
    )


def attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 4, dim_feedforward=16, dropout=0.0, batch_first=True)


# The groups of a pattern in a weight, written out index by index.
BY_HAND = {
    "element": lambda shape, at: at,
    "row": lambda shape, at: at[0],
    "channel": lambda shape, at: at[1],
    "kernel": lambda shape, at: at[:2],
    "layer": lambda shape, at: (),
    "2x4": lambda shape, at: (at[0] // 2, at[1] // 4, *at[2:]),
}


@pytest.mark.parametrize("pattern", BY_HAND)
def test_a_group_is_kept_or_gone_as_a_whole_and_its_score_is_the_mean(pattern):
    weights = [w for w in prunable(net()) if pattern != "kernel" or len(w.shape) == 4]
    units, skipped = pattern_of(pattern)(weights)
    assert not skipped
    for weight, unit in zip(weights, units, strict=True):
        scores = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)).double()
        means: dict = {}
        for at in torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist():
            means.setdefault(BY_HAND[pattern](weight.shape, tuple(at)), []).append(scores[*at])
        expected = torch.stack([torch.stack(group).mean() for group in means.values()])
        torch.testing.assert_close(unit.gather({weight.name: scores}), expected)
        assert (unit.count, unit.size) == (len(means), weight.parameter.numel() // len(means))
        numbers = unit.spread(torch.arange(unit.count))[weight.name]
        keys = list(means)
        for at in torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist():
            assert keys[numbers[*at]] == BY_HAND[pattern](weight.shape, tuple(at))


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p not in ("head", "layer", "element")])
@given(density=st.floats(0.3, 1))
def test_as_many_whole_groups_stay_as_the_density_allows(pattern, density):
    model = net()
    only = "0" if pattern == "kernel" else None
    masks, _ = prune_(model, density, pattern=pattern, select=only, allocation="uniform")
    units, _ = pattern_of(pattern)(prunable(model, select=only))
    sizes = {unit.name: unit.size for unit in units}
    allowed = round(density * masks.total)
    assert allowed - max(sizes.values()) < masks.kept <= allowed
    for name, mask in masks.items():
        assert int(mask.sum()) % sizes[name] == 0


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (1, 2), (3, 4)])
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_n_of_m_inputs_are_kept_along_the_input_channels(n, m, allocation):
    model = net()
    before = {w.name: w.parameter.detach().clone() for w in prunable(model)}
    masks, report = prune_(model, pattern=f"{n}:{m}", allocation=allocation)
    assert masks.density == n / m
    for name, mask in masks.items():
        groups = mask.movedim(1, -1).reshape(-1, m)
        scores = before[name].abs().movedim(1, -1).reshape(-1, m)
        assert (groups.sum(1) == n).all()
        best = scores.topk(n, dim=1).indices
        assert groups.gather(1, best).all()
    assert report.summary["density asked"] == n / m


def test_n_of_m_can_be_pruned_further_and_never_has_more():
    masks, _ = prune_(net(), 0.1, pattern="2:4")
    assert masks.kept == round(0.1 * masks.total)
    assert all((m.movedim(1, -1).reshape(-1, 4).sum(1) <= 2).all() for m in masks.values())
    masks, report = prune_(net(), 0.9, pattern="2:4")
    assert masks.density == 0.5  # what was asked for cannot be had, and the report says so
    assert (report.summary["density asked"], report.summary["density reached"]) == (0.9, 0.5)


def test_weights_that_a_pattern_does_not_fit_are_skipped_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 3))
    masks, report = prune_(model, pattern="2:4")
    assert list(masks) == ["2.weight", "3.weight"]
    assert report.skipped["0.weight"] == "pattern 2:4: its 3 inputs are no multiple of 4"
    _, report = prune_(model, 0.5, pattern="4x4")
    assert report.skipped["3.weight"] == "pattern 4x4: 3x8 is not made of 4x4 blocks"
    _, report = prune_(model, 0.5, pattern="kernel")
    assert report.skipped["2.weight"] == "pattern kernel: has no kernels"


def test_a_head_goes_from_all_projections_and_the_output_follows():
    model = attention()
    masks, report = prune_(model, 0.5, pattern="head", criterion=_likes_heads({1, 3}))
    assert set(masks) == {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
    rows = masks["self_attn.in_proj_weight"].view(3, 4, 2, 8)
    columns = masks["self_attn.out_proj.weight"].view(8, 4, 2)
    for number in range(4):
        kept = number in {1, 3}
        assert (rows[:, number] == kept).all()
        assert (columns[:, number] == kept).all()
    assert report.skipped["linear1.weight"].startswith("pattern head: no weight of nn.Multihead")


def test_heads_of_projections_of_their_own_are_found_too():
    module = nn.MultiheadAttention(8, 2, kdim=6, vdim=5)
    masks, _ = prune_(nn.ModuleDict({"a": module}), 0.5, pattern="head")
    parts = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    assert set(masks) == {f"a.{part}" for part in parts}
    assert masks.kept == 4 * 8 + 4 * 6 + 4 * 5 + 4 * 8


def _likes_heads(best):
    def criterion(model, data):
        scores = {w.name: torch.zeros(w.shape) for w in prunable(model)}
        for head in best:
            scores["self_attn.out_proj.weight"].view(8, 4, 2)[:, head] = 1.0
        return scores

    return criterion


def test_transposed_layouts_have_their_outputs_second():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3))
    masks, _ = prune_(model, 0.5, pattern="row")
    assert (masks["0.weight"].sum((0, 2, 3)) % 36 == 0).all()
    masks, _ = prune_(nn.Sequential(nn.ConvTranspose2d(4, 6, 3)), pattern="2:4")
    assert (masks["0.weight"].sum(0) == 2).all()


def test_the_inputs_of_a_grouped_convolution_are_no_channels():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3))
    _, report = prune_(model, 0.5, pattern="channel")
    assert "split among 2 groups" in report.skipped["0.weight"]


def test_groups_with_something_left_stay_alive_when_a_weight_was_pruned_before():
    model = net()
    first, _ = prune_(model, 0.5, ignore=["0", "4"])
    masks, _ = prune_(model, 0.25, pattern="row", masks=first, ignore=["0", "4"])
    assert all((first[name] | ~mask).all() for name, mask in masks.items())
    rows = masks["3.weight"].any(1)
    assert int(rows.sum()) == 3
    assert torch.equal(masks["3.weight"][rows], first["3.weight"][rows])


@pytest.mark.parametrize("wrong", ["2:1", "0:4", "0x4", "rows", "head2"])
def test_an_unknown_pattern_is_answered_with_what_is_known(wrong):
    with pytest.raises(ConfigError, match=f"pattern '{wrong}': (did you mean|known)"):
        prune_(net(), 0.5, pattern=wrong)


def test_a_pattern_that_fits_nothing_is_an_error():
    with pytest.raises(
        ConfigError, match=r"pattern 'head': fits no weight \(0.weight: no weight of"
    ):
        prune_(net(), 0.5, pattern="head")


def test_without_a_density_only_n_of_m_says_how_much():
    with pytest.raises(ConfigError, match="density: is missing"):
        prune_(net(), pattern="row")

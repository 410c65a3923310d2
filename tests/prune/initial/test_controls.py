import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune import CRITERIA, prune_
from tersor.prune.initial import inverted, redraw_, shuffled, variance_scaling_
from tersor.prune.scoring import ScoringData


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    )


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(0, 5))
def test_shuffled_masks_keep_the_count_of_each_tensor(counts, seed):
    masks = MaskSet({str(i): torch.arange(12).view(3, 4) < c for i, c in enumerate(counts)})
    other = shuffled(masks, seed=seed)
    assert {n: (m.shape, int(m.sum())) for n, m in other.items()} == {
        n: (m.shape, int(m.sum())) for n, m in masks.items()
    }
    assert same(dict(other), dict(shuffled(masks, seed=seed)))


def test_every_place_is_as_likely_to_be_kept_and_equal_masks_are_mixed_apart():
    mask = torch.arange(20) < 5
    masks = MaskSet({"a": mask, "b": mask})
    total = torch.zeros(20)
    for seed in range(400):
        mixed = shuffled(masks, seed=seed)
        total += mixed["a"]
    assert (total - 100).abs().max() < 35  # binomial(400, 1/4): standard deviation 8.7
    mixed = shuffled(masks, seed=0)
    assert not torch.equal(mixed["a"], mixed["b"])


def test_a_second_draw_is_what_a_network_made_with_that_seed_would_be():
    from tersor.core.seeding import seed_everything

    model = net()
    redraw_(model, seed=4)
    seed_everything(4, "redraw")
    fresh = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    )
    assert same(state(model), state(fresh))


@pytest.mark.parametrize("initialiser", [None, variance_scaling_])
def test_a_second_draw_is_new_seeded_and_leaves_the_global_generator(initialiser):
    model, before = net(), state(net())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    redraw_(model, seed=0, initialiser=initialiser)
    assert torch.equal(torch.rand(1), expected)
    once = state(model)
    assert not any(torch.equal(once[n], before[n]) for n in before if n.startswith(("0.w", "3.w")))
    redraw_(model, seed=1, initialiser=initialiser)
    assert not torch.equal(model[3].weight, once["3.weight"])
    redraw_(model, seed=0, initialiser=initialiser)
    assert same(state(model), once)


def test_attention_and_recurrent_layers_are_drawn_again():
    model = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.LSTM(3, 4), nn.GRU(3, 4)])
    before = state(model)
    redraw_(model, seed=0)
    weights = [name for name in before if "weight" in name]
    assert len(weights) == 6
    assert not any(torch.equal(model.state_dict()[name], before[name]) for name in weights)


def test_parameters_that_nobody_can_draw_again_are_named():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    model = nn.Sequential(nn.Linear(3, 3), Own())
    before = state(model)
    with pytest.raises(ConfigError, match="Own '1' has parameters, but no reset_parameters"):
        redraw_(model, seed=0)
    assert same(state(model), before)


def test_inverted_scores_keep_exactly_what_would_have_gone():
    data = ScoringData([(torch.randn(8, 1, 4, 4), torch.randint(0, 3, (8,)))])
    total = 36 + 96 + 18
    kept, _ = prune_(net(), 120 / total, criterion="snip", data=data)
    others, _ = prune_(net(), 30 / total, criterion=inverted("snip"), data=data)
    assert others.kept == 30
    assert all(torch.equal(others[name], ~kept[name]) for name in kept)


def test_a_criterion_may_be_a_function_and_the_inverse_of_the_inverse_is_itself():
    model = net()
    twice = inverted(inverted(CRITERIA["magnitude"]))(model, ScoringData())
    for name, score in CRITERIA["magnitude"](model, ScoringData()).items():
        assert torch.equal(twice[name], score)
    with pytest.raises(ConfigError, match="criterion 'snipp': did you mean 'snip'"):
        inverted("snipp")

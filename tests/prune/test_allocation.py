import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.prune import ALLOCATIONS
from tersor.prune.allocation import global_, kept_count, lamp, masks_for, per_layer, uniform

shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4)
densities = st.floats(0, 1, exclude_min=True)


def random_scores(shapes, seed: int = 0, levels: int | None = None) -> dict[str, torch.Tensor]:
    """Scores with many ties if there are few levels."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for number, shape in enumerate(shapes):
        values = torch.rand(shape, generator=generator)
        scores[f"w{number}"] = (values * levels).floor() if levels else values
    return scores


def literal_lamp(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Equation 1 of Lee et al. 2021 with its sorted index map, weight by weight."""
    found = {}
    for name, tensor in scores.items():
        w = tensor.flatten().tolist()
        ascending = sorted(range(len(w)), key=lambda i: (w[i], -i))
        values = [0.0] * len(w)
        for u, index in enumerate(ascending):
            values[index] = w[index] ** 2 / sum(w[v] ** 2 for v in ascending[u:])
        found[name] = torch.tensor(values, dtype=torch.float64)
    return found


@given(shapes, densities, st.sampled_from(sorted(ALLOCATIONS)), st.sampled_from([None, 3]))
def test_the_kept_count_is_exactly_the_rounded_share_of_all(shapes, density, name, levels):
    scores = random_scores(shapes, levels=levels)
    counts = ALLOCATIONS[name](scores, density)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == round(density * sum(s.numel() for s in scores.values()))
    assert all(0 <= counts[n] <= s.numel() for n, s in scores.items())


@given(shapes, densities, st.sampled_from([None, 3]))
def test_global_keeps_what_a_sort_of_everything_puts_first(shapes, density, levels):
    scores = random_scores(shapes, levels=levels)
    everything = [(-v, n) for n, s in scores.items() for v in s.flatten().tolist()]
    first = sorted(range(len(everything)), key=lambda i: (everything[i][0], i))
    kept = [everything[i][1] for i in first[: round(density * len(everything))]]
    assert global_(scores, density) == {n: kept.count(n) for n in scores}


def test_global_orders_a_float64_below_the_resolution_of_float32():
    a, b = torch.tensor([1.0 + 1e-12], dtype=torch.float64), torch.tensor([1.0])
    assert global_({"b": b, "a": a}, 0.5) == {"b": 0, "a": 1}


@given(shapes, densities)
def test_uniform_is_within_one_weight_of_the_share_in_every_tensor(shapes, density):
    for name, count in uniform(scores := random_scores(shapes), density).items():
        assert abs(count - Fraction(density) * scores[name].numel()) <= 1


def test_uniform_gives_the_rest_to_the_largest_remainders():
    scores = {"a": torch.ones(7), "b": torch.ones(9), "c": torch.ones(4)}
    # 2.1, 2.7 and 1.2 of them; 6 in all
    assert uniform(scores, 0.3) == {"a": 2, "b": 3, "c": 1}


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4), st.integers(0, 10), st.data())
def test_lamp_keeps_the_highest_of_the_papers_scores(sizes, seed, data):
    scores = random_scores([[n] for n in sizes], seed)
    count = data.draw(st.integers(len(sizes), sum(sizes)))
    everything = torch.cat(list(literal_lamp(scores).values()))
    threshold = everything.sort(descending=True).values
    # 1.0 is the score of every tensor's largest; below, no two are so near that rounding decides
    gap = threshold[count - 1] - threshold[count] if count < len(everything) else 1.0
    assume(gap > 1e-9)
    expected = {n: int((s >= threshold[count - 1]).sum()) for n, s in literal_lamp(scores).items()}
    assert lamp(scores, count / sum(sizes)) == expected


def test_lamp_by_hand():
    scores = {"a": torch.tensor([1.0, 4.0, 2.0]), "b": torch.tensor([3.0, 3.0])}
    # a: 1/21, 1, 4/20;  b: 1, 9/18
    assert lamp(scores, 3 / 5) == {"a": 1, "b": 2}
    assert lamp(scores, 4 / 5) == {"a": 2, "b": 2}


@given(shapes, st.sampled_from([None, 1, 3]), densities)
def test_lamp_never_empties_a_tensor_while_there_is_one_weight_for_each(shapes, levels, density):
    scores = random_scores(shapes, levels=levels)  # with one level, all are zero
    total = sum(s.numel() for s in scores.values())
    assume(round(density * total) >= len(scores))
    assert min(lamp(scores, density).values()) >= 1


@pytest.mark.parametrize("size", [1e-170, 1e-30, 1e30, 1e160])
def test_lamp_does_not_depend_on_the_size_of_a_tensors_weights(size):
    plain = random_scores([[40], [30]])
    scaled = {n: s.double() * (size if n == "w1" else 1) for n, s in plain.items()}
    assert lamp(scaled, 0.3) == lamp(plain, 0.3)


def test_per_layer_rounds_each_share_for_itself():
    scores = {"a": torch.ones(10), "b": torch.ones(3), "c": torch.ones(5)}
    assert per_layer(scores, {"a": 0.26, "c": 0.5}) == {"a": 3, "c": 2}  # 2.5: half to even


@pytest.mark.parametrize("density", [2.0, 0, -0.5, math.nan, math.inf, 1.0000001])
@pytest.mark.parametrize("name", ALLOCATIONS)
def test_a_density_out_of_range_is_named(name, density):
    with pytest.raises(ConfigError, match=f"density: {density}; expected 0 < density <= 1"):
        ALLOCATIONS[name]({"a": torch.ones(4)}, density)


@given(shapes, st.data(), st.sampled_from([None, 3]))
def test_a_mask_keeps_the_highest_scores_and_of_equal_ones_the_first(shapes, data, levels):
    scores = random_scores(shapes, levels=levels)
    counts = {n: data.draw(st.integers(1, s.numel())) for n, s in scores.items()}
    masks = masks_for(scores, counts)
    for name, score in scores.items():
        flat = score.flatten().tolist()
        first = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[: counts[name]]
        assert masks[name].shape == score.shape
        assert masks[name].flatten().nonzero().flatten().tolist() == sorted(first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_scores_of_every_floating_type_have_an_order(dtype):
    score = torch.tensor([[1.0, 3.0], [2.0, 3.0]], dtype=dtype)
    assert masks_for({"a": score}, {"a": 1})["a"].tolist() == [[False, True], [False, False]]
    assert masks_for({"a": score}, {"a": 3})["a"].tolist() == [[False, True], [True, True]]


def test_a_score_that_is_not_contiguous_is_read_in_logical_order():
    score = torch.tensor([[1.0, 5.0], [5.0, 5.0]]).T
    assert masks_for({"a": score}, {"a": 2})["a"].tolist() == [[False, True], [True, False]]


@given(
    shapes, densities, densities, st.sampled_from(["global", "lamp"]), st.sampled_from([None, 3])
)
def test_masks_for_smaller_densities_are_nested(shapes, one, other, name, levels):
    scores = random_scores(shapes, levels=levels)
    low, high = (ALLOCATIONS[name](scores, d) for d in sorted((one, other)))
    assume(min(low.values()) > 0)
    small, large = masks_for(scores, low), masks_for(scores, high)
    assert all((large[n] | ~small[n]).all() for n in scores)


def test_nan_is_named_also_behind_a_tensor_that_would_be_empty():
    scores = {"a": torch.tensor([1.0]), "fc.weight": torch.tensor([math.nan, 1.0])}
    with pytest.raises(ConfigError, match=r"'fc.weight' hold NaN"):
        masks_for(scores, {"a": 0, "fc.weight": 1})


def test_an_infinite_score_is_the_highest():
    scores = {"a": torch.tensor([1.0, math.inf, 2.0]), "b": torch.tensor([math.inf, math.inf])}
    for allocation in ALLOCATIONS.values():
        assert sum(allocation(scores, 0.6).values()) == 3
    assert lamp(scores, 0.4) == {"a": 1, "b": 1}


def test_a_tensor_that_would_be_empty_is_named_with_its_size_and_what_to_do():
    scores = {"fc3.weight": torch.ones(10, 100)}
    message = (
        r"leaves 'fc3.weight' empty \(0 of 1,000 weights\)\. Raise the density, or .*per layer"
    )
    with pytest.raises(ConfigError, match=message):
        masks_for(scores, {"fc3.weight": 0})


def test_a_tensor_without_entries_stays_without():
    masks = masks_for({"a": torch.ones(0, 3)}, {"a": 0})
    assert masks["a"].shape == (0, 3)


@given(st.integers(0, 10**9), densities)
def test_kept_count_is_the_nearest_whole_number(total, density):
    assert abs(kept_count(total, density) - Fraction(density) * total) <= Fraction(1, 2) + Fraction(
        total, 2**52
    )

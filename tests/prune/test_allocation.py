import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.prune import ALLOCATIONS
from tersor.prune.allocation import Groups, er, erk, global_, kept_count, lamp, per_layer, uniform

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


def elements(scores: dict[str, torch.Tensor]) -> dict[str, Groups]:
    return {name: Groups.of(tensor) for name, tensor in scores.items()}


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
    counts = ALLOCATIONS[name](elements(scores), density)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == round(density * sum(s.numel() for s in scores.values()))
    assert all(0 <= counts[n] <= s.numel() for n, s in scores.items())


@given(shapes, densities, st.sampled_from([None, 3]))
def test_global_keeps_what_a_sort_of_everything_puts_first(shapes, density, levels):
    scores = random_scores(shapes, levels=levels)
    everything = [(-v, n) for n, s in scores.items() for v in s.flatten().tolist()]
    first = sorted(range(len(everything)), key=lambda i: (everything[i][0], i))
    kept = [everything[i][1] for i in first[: round(density * len(everything))]]
    assert global_(elements(scores), density) == {n: kept.count(n) for n in scores}


def test_global_orders_a_float64_below_the_resolution_of_float32():
    a, b = torch.tensor([1.0 + 1e-12], dtype=torch.float64), torch.tensor([1.0])
    assert global_(elements({"b": b, "a": a}), 0.5) == {"b": 0, "a": 1}


@given(shapes, densities)
def test_uniform_is_within_one_weight_of_the_share_in_every_tensor(shapes, density):
    for name, count in uniform(elements(scores := random_scores(shapes)), density).items():
        assert abs(count - Fraction(density) * scores[name].numel()) <= 1


def test_uniform_gives_the_rest_to_the_largest_remainders():
    scores = {"a": torch.ones(7), "b": torch.ones(9), "c": torch.ones(4)}
    # 2.1, 2.7 and 1.2 of them; 6 in all
    assert uniform(elements(scores), 0.3) == {"a": 2, "b": 3, "c": 1}


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
    assert lamp(elements(scores), count / sum(sizes)) == expected


def test_lamp_by_hand():
    scores = {"a": torch.tensor([1.0, 4.0, 2.0]), "b": torch.tensor([3.0, 3.0])}
    # a: 1/21, 1, 4/20;  b: 1, 9/18
    assert lamp(elements(scores), 3 / 5) == {"a": 1, "b": 2}
    assert lamp(elements(scores), 4 / 5) == {"a": 2, "b": 2}


@given(shapes, st.sampled_from([None, 1, 3]), densities)
def test_lamp_never_empties_a_tensor_while_there_is_one_weight_for_each(shapes, levels, density):
    scores = random_scores(shapes, levels=levels)  # with one level, all are zero
    total = sum(s.numel() for s in scores.values())
    assume(round(density * total) >= len(scores))
    assert min(lamp(elements(scores), density).values()) >= 1


@pytest.mark.parametrize("size", [1e-170, 1e-30, 1e30, 1e160])
def test_lamp_does_not_depend_on_the_size_of_a_tensors_weights(size):
    plain = random_scores([[40], [30]])
    scaled = {n: s.double() * (size if n == "w1" else 1) for n, s in plain.items()}
    assert lamp(elements(scaled), 0.3) == lamp(elements(plain), 0.3)


def test_per_layer_rounds_each_share_for_itself():
    scores = {"a": torch.ones(10), "b": torch.ones(3), "c": torch.ones(5)}
    assert per_layer(elements(scores), {"a": 0.26, "c": 0.5}) == {
        "a": 3,
        "c": 2,
    }  # 2.5: half to even


@pytest.mark.parametrize("density", [2.0, 0, -0.5, math.nan, math.inf, 1.0000001])
@pytest.mark.parametrize("name", ALLOCATIONS)
def test_a_density_out_of_range_is_named(name, density):
    with pytest.raises(ConfigError, match=f"density: {density}; expected 0 < density <= 1"):
        ALLOCATIONS[name](elements({"a": torch.ones(4)}), density)


def test_an_infinite_score_is_the_highest():
    scores = {"a": torch.tensor([1.0, math.inf, 2.0]), "b": torch.tensor([math.inf, math.inf])}
    for allocation in ALLOCATIONS.values():
        assert sum(allocation(elements(scores), 0.6).values()) == 3
    assert lamp(elements(scores), 0.4) == {"a": 1, "b": 1}


def erdos_renyi(shapes: list[tuple[int, ...]], density: float, kernel: bool) -> list[float]:
    """The densities of Evci et al.: min(1, epsilon * raw), epsilon by bisection."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [(s[0] + s[1] + (sum(s[2:]) if kernel else 0)) / math.prod(s) for s in shapes]
    low, high = 0.0, float(max(sizes))
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(min(1.0, middle * r) * n for r, n in zip(raw, sizes, strict=True))
        low, high = (middle, high) if kept < density * sum(sizes) else (low, middle)
    return [min(1.0, high * r) for r in raw]


matrices = st.lists(
    st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5
)


@given(matrices, st.floats(0.05, 1), st.booleans())
def test_er_and_erk_are_their_formula_within_one_weight(shapes, density, kernel):
    groups = elements(random_scores(shapes))
    counts = (erk if kernel else er)(groups, density)
    for shape, count, expected in zip(
        shapes, counts.values(), erdos_renyi(shapes, density, kernel), strict=True
    ):
        assert abs(count - expected * math.prod(shape)) <= 1 + 1e-6


def test_erk_of_lenet_5_by_hand():
    shapes = [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]
    groups = elements({f"w{i}": torch.ones(shape) for i, shape in enumerate(shapes)})
    counts = list(erk(groups, 0.02).values())
    # In proportion to out + in + sides: 31, 80, 1300, 510 of 8,610 weights in all.
    assert sum(counts) == 8610
    for count, part in zip(counts, (31, 80, 1300, 510), strict=True):
        assert abs(count - 8610 * part / 1921) <= 1


def test_groups_of_several_weights_are_paid_for_as_a_whole():
    rows = {
        "wide": Groups(torch.tensor([5.0, 1.0]), 10, (2, 10)),
        "narrow": Groups(torch.tensor([4.0, 3.0, 2.0]), 4, (3, 4)),
    }
    # 32 weights; the highest groups cost 10, then 4, 4, 4, then 10
    assert global_(rows, 0.5) == {"wide": 1, "narrow": 1}  # 14 of 16: the next one costs 4
    assert global_(rows, 18 / 32) == {"wide": 1, "narrow": 2}
    assert global_(rows, 1.0) == {"wide": 2, "narrow": 3}
    assert uniform(rows, 0.5) == {"wide": 1, "narrow": 1}


@given(st.integers(0, 10**9), densities)
def test_kept_count_is_the_nearest_whole_number(total, density):
    assert abs(kept_count(total, density) - Fraction(density) * total) <= Fraction(1, 2) + Fraction(
        total, 2**52
    )

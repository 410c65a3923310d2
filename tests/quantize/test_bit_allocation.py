import itertools
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator
from tersor.quantize.bit_allocation import allocate_bits, widths_of_equal_gain


def by_trying_all(costs, sizes, limit):
    """The least cost, and the fewest bits that reach it; None if nothing fits."""
    best = None
    for widths in itertools.product(*(costs[name] for name in costs)):
        bits = sum(sizes[n] * b for n, b in zip(costs, widths, strict=True))
        cost = sum(costs[n][b] for n, b in zip(costs, widths, strict=True))
        if bits <= limit and (best is None or (cost, bits) < best):
            best = cost, bits
    return best


# Whole numbers: sums are exact, and ties are frequent.
LAYERS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.dictionaries(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(-5, 60), min_size=1),
    ),
    min_size=1,
    max_size=5,
)


@given(LAYERS, st.integers(1, 1500))
def test_it_is_the_best_of_all_combinations_also_where_costs_do_not_fall(layers, limit):
    costs = {
        f"w{i}": {b: float(c) for b, c in given.items()} for i, (_, given) in enumerate(layers)
    }
    sizes = {f"w{i}": size for i, (size, _) in enumerate(layers)}
    best = by_trying_all(costs, sizes, limit)
    if best is None:
        with pytest.raises(ConfigError, match="the smallest widths take"):
            allocate_bits(costs, sizes, budget=limit / sum(sizes.values()))
        return
    found = allocate_bits(costs, sizes, budget=limit / sum(sizes.values()))
    assert list(found) == list(costs)
    cost = sum(costs[name][bits] for name, bits in found.items())
    assert (cost, sum(sizes[n] * b for n, b in found.items())) == best
    assert allocate_bits(costs, sizes, size_bytes=limit / 8) == found


def by_table(costs, sizes, limit):
    """The textbook program over every whole number of bits: (cost, bits) of the best."""
    best = {0: 0}
    for name, of in costs.items():
        grown = {}
        for bits, cost in best.items():
            for width, more in of.items():
                total = bits + width * sizes[name]
                if total <= limit:
                    grown[total] = min(grown.get(total, 10**9), cost + more)
        best = grown
    return min((cost, bits) for bits, cost in best.items())


@pytest.mark.parametrize("most", [4, 1000])  # of a cost: ties, or hardly any
def test_it_is_the_best_for_many_layers_too(most):
    draw = random.Random(most)
    for _ in range(150):
        names = [f"w{i}" for i in range(8)]
        sizes = {name: draw.randint(1, 30) for name in names}
        costs = {name: {b: draw.randint(0, most) for b in (1, 2, 3, 4, 8)} for name in names}
        limit = draw.randint(sum(sizes.values()), 5 * sum(sizes.values()))
        found = allocate_bits(costs, sizes, size_bytes=limit / 8)
        cost = sum(costs[name][bits] for name, bits in found.items())
        bits = sum(sizes[name] * bits for name, bits in found.items())
        assert (cost, bits) == by_table(costs, sizes, limit)


def test_the_greedy_answer_is_not_always_the_best_one():
    # Steepest first takes "a" and then has no room for "b", which alone is worth more.
    costs = {"a": {1: 10.0, 2: 7.0}, "b": {1: 10.0, 2: 2.0}}
    sizes = {"a": 3, "b": 10}
    assert allocate_bits(costs, sizes, size_bytes=25 / 8) == {"a": 1, "b": 2}


def test_a_hundred_layers_of_odd_sizes_are_within_the_bound_of_the_relaxation():
    draw = generator(0, "layers")
    count, choices = 100, (2, 3, 4, 6, 8)
    sizes = {
        f"w{i}": int(n) for i, n in enumerate(torch.randint(100, 10**6, (count,), generator=draw))
    }
    weight = torch.rand(count, generator=draw, dtype=torch.float64).exp().tolist()
    costs = {n: {b: w * 4.0**-b for b in choices} for n, w in zip(sizes, weight, strict=True)}
    total = sum(sizes.values())
    found = allocate_bits(costs, sizes, budget=3.7)
    assert sum(sizes[n] * b for n, b in found.items()) <= 3.7 * total
    best = sum(costs[n][b] for n, b in found.items())

    def dual(price):  # a bound from below, for any price of a bit
        least = (min(c + price * sizes[n] * b for b, c in costs[n].items()) for n in costs)
        return sum(least) - price * 3.7 * total

    bound = max(dual(10.0**-e) for e in (x / 50 for x in range(250, 500)))
    assert bound <= best <= bound * 1.005


def test_equal_costs_and_sizes_get_equal_bits_and_a_worse_layer_gets_more():
    def of(factor):
        return {b: factor * 4.0**-b for b in (2, 3, 4, 5, 6)}

    sizes = dict.fromkeys("abc", 1000)
    assert set(allocate_bits(dict.fromkeys("abc", of(1.0)), sizes, budget=4).values()) == {4}
    found = allocate_bits({"a": of(1.0), "b": of(16.0), "c": of(1 / 16)}, sizes, budget=4)
    assert found == {"a": 4, "b": 6, "c": 2}


def test_the_closed_form_is_what_the_program_finds_where_it_is_whole():
    sizes = {"a": 64, "b": 256, "c": 1024}
    real = widths_of_equal_gain(sizes, 5)
    assert sum(sizes[n] * b for n, b in real.items()) == pytest.approx(5 * sum(sizes.values()))
    assert real["a"] - real["b"] == pytest.approx(1)  # a factor of 4 is one bit, 6.02 dB
    budget = 5 - (real["c"] - 4)  # so that c has just 4
    exact = widths_of_equal_gain(sizes, budget)
    costs = {n: {b: 4.0**-b for b in range(1, 12)} for n in sizes}
    found = allocate_bits(costs, sizes, budget=budget)
    assert found == {n: round(b) for n, b in exact.items()} == {"a": 6, "b": 5, "c": 4}


def test_equal_sizes_have_equal_widths_in_the_closed_form():
    assert widths_of_equal_gain({"a": 7, "b": 7}, 3.5) == pytest.approx({"a": 3.5, "b": 3.5})
    with pytest.raises(ConfigError, match="'a' has 0 entries"):
        widths_of_equal_gain({"a": 0}, 3)


@pytest.mark.parametrize(
    ("costs", "options", "match"),
    [
        ({"a": {2: 1.0}}, {"budget": 1.5}, r"budget 1.5 bits: the smallest widths take 2 bits"),
        ({"a": {2: 1.0}}, {"size_bytes": 1}, r"size_bytes 1: .* 2 bits on average, 3 bytes"),
        ({"a": {2: 1.0}}, {}, "neither given"),
        ({"a": {2: 1.0}}, {"budget": 1, "size_bytes": 1}, "both given"),
        ({"a": {2: 1.0}}, {"budget": 0}, "budget: 0; expected a number above 0"),
        ({"a": {2: math.nan}}, {"budget": 4}, "'a' costs nan with 2 bits"),
        ({"a": {0: 1.0}}, {"budget": 4}, "'a' costs 1.0 with 0 bits"),
        ({"a": {}}, {"budget": 4}, "'a' has no widths"),
        ({"fc": {2: 1.0}}, {"budget": 4}, "'fc' has costs, but no size"),
        ({}, {"budget": 4}, "there are none"),
    ],
)
def test_what_cannot_be_is_refused(costs, options, match):
    with pytest.raises(ConfigError, match=match):
        allocate_bits(costs, {"a": 10}, **options)

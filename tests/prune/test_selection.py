import math
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.prune.scoring import Lazily
from tersor.prune.selection import highest, highest_of_all

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
corners = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e-40, -1e-40, 65504.0])
values = st.lists(st.one_of(corners, st.floats(-1e4, 1e4, width=16)), max_size=30)


def first(numbers: list[float], count: int) -> set[int]:
    """Indices of the highest, ties by index, by a stable sort."""
    return set(sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))[:count])


@given(values, st.data(), st.sampled_from(DTYPES))
def test_the_highest_are_those_that_a_stable_sort_puts_first(numbers, data, dtype):
    tensor = torch.tensor(numbers, dtype=dtype)
    count = data.draw(st.integers(0, len(numbers)))
    kept = highest(tensor, count)
    assert set(kept.nonzero().flatten().tolist()) == first(tensor.tolist(), count)


@given(values, values, st.data(), st.sampled_from(DTYPES))
def test_over_several_tensors_ties_go_in_their_order(one, other, data, dtype):
    a, b = torch.tensor(one, dtype=dtype), torch.tensor(other, dtype=dtype)
    count = data.draw(st.integers(0, len(one) + len(other)))
    kept = first([*a.tolist(), *b.tolist()], count)
    of_a = sum(index < len(one) for index in kept)
    assert highest_of_all({"a": a, "b": b}, count) == {"a": of_a, "b": count - of_a}


@given(values, values, st.integers(1, 5), st.integers(1, 5), st.integers(0, 200))
def test_a_budget_is_spent_from_the_highest_down_until_the_next_is_too_dear(one, other, x, y, all_):
    numbers = [(-v, 0, x) for v in one] + [(-v, 1, y) for v in other]
    expected, left = [0, 0], all_
    for _, which, cost in sorted(numbers, key=lambda n: n[:2]):
        if cost > left:
            break
        expected[which] += 1
        left -= cost
    tensors = {"a": torch.tensor(one).double(), "b": torch.tensor(other).double()}
    found = highest_of_all(tensors, all_, {"a": x, "b": y})
    assert found == {"a": expected[0], "b": expected[1]}


def test_more_numbers_than_a_block_holds_and_all_of_them_alike():
    assert highest(torch.zeros(300_000), 270_000).nonzero().max() == 269_999
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(600_000, generator=generator)
    kept = highest(numbers, 1234)
    assert kept.sum() == 1234
    assert numbers[kept].min() > numbers[~kept].max()


def test_no_two_tensors_are_held_at_once():
    held = weakref.WeakSet()

    def make(value):
        assert not held
        tensor = torch.full((3,), value)
        held.add(tensor)
        return tensor

    numbers = Lazily({name: partial(make, value) for name, value in (("a", 1.0), ("b", 2.0))})
    assert highest_of_all(numbers, 4) == {"a": 1, "b": 3}
    assert highest_of_all(numbers, 6) == {"a": 3, "b": 3}


def test_a_tensor_that_is_not_contiguous_is_read_in_logical_order():
    assert highest(torch.tensor([[1.0, 5.0], [5.0, 5.0]]).T, 2).tolist() == [
        [False, True],
        [True, False],
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_that_differ_by_the_last_bit_are_told_apart(dtype):
    one = torch.ones(1, dtype=dtype)
    above = torch.nextafter(one, 2 * one)
    assert highest(torch.cat([one, above, one]), 1).tolist() == [False, True, False]


def test_mixed_types_are_compared_exactly():
    a, b = torch.tensor([1.0 + 1e-12], dtype=torch.float64), torch.tensor([1.0])
    assert highest_of_all({"b": b, "a": a}, 1) == {"b": 0, "a": 1}


def test_numbers_that_do_not_lie_side_by_side():
    one = torch.tensor([2.0]).expand(5)
    every_other = torch.arange(10.0)[::2]
    assert highest(one, 2).tolist() == [True, True, False, False, False]
    assert highest_of_all({"a": one, "b": every_other}, 4) == {"a": 1, "b": 3}

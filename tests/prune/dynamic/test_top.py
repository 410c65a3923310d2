import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.prune.dynamic.top import top


def by_sorting(scores: list[float], among: list[bool], count: int) -> list[bool]:
    allowed = [i for i, ok in enumerate(among) if ok]
    best = sorted(allowed, key=lambda i: (-scores[i], i))[:count]
    return [i in best for i in range(len(scores))]


@given(st.integers(0, 10**6), st.integers(1, 700), st.floats(0, 1), st.floats(0, 1))
def test_it_agrees_with_sorting_many_ties_too(seed, size, density, part):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 9, (size,), generator=generator).float()
    among = torch.rand(size, generator=generator) < density
    count = round(part * int(among.sum()))
    found = top(scores, count, among).tolist()
    assert found == by_sorting(scores.tolist(), among.tolist(), count)


@pytest.mark.parametrize("count", [1, 30, 700])
def test_a_sample_that_misleads_costs_time_alone(count):
    # The sampled places hold the highest of all, so the bound is far too high.
    scores = torch.arange(8000.0)
    scores[::16] = 1e6
    among = torch.ones(8000, dtype=torch.bool)
    assert top(scores, count, among).tolist() == by_sorting(scores.tolist(), among.tolist(), count)


def test_infinities_and_the_shape():
    scores = torch.tensor([[-torch.inf, 0.0], [torch.inf, -1.0]])
    assert top(scores, 2, torch.ones(2, 2, dtype=torch.bool)).tolist() == [
        [False, True],
        [True, False],
    ]
    assert top(scores, 1, torch.tensor([[True, False], [False, False]])).tolist() == [
        [True, False],
        [False, False],
    ]
    assert not top(scores, 0, torch.ones(2, 2, dtype=torch.bool)).any()

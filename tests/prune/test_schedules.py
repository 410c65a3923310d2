import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.prune import SCHEDULES, cubic, geometric, linear, one_shot

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@st.composite
def windows(draw) -> dict:
    final, initial = sorted(draw(st.tuples(*[st.floats(1e-6, 1.0)] * 2)))
    start = draw(st.integers(0, 1000))
    return {
        "start": start,
        "end": start + draw(st.integers(0, 1000)),
        "final": final,
        "initial": initial,
    }


@every_schedule
@given(window=windows())
def test_a_schedule_is_monotone_and_exact_at_its_ends(name, window):
    start, end = window["start"], window["end"]
    densities = [SCHEDULES[name](step, **window) for step in range(start - 2, end + 3)]
    assert all(before >= after for before, after in itertools.pairwise(densities))
    assert densities[:2] == [window["initial"]] * 2
    assert densities[-3:] == [window["final"]] * 3


@every_schedule
def test_the_window_begins_dense_unless_all_goes_at_once(name):
    at_start = SCHEDULES[name](10, start=10, end=20, final=0.1)
    assert at_start == (0.1 if name == "one_shot" else 1.0)


@every_schedule
def test_an_empty_window_is_all_at_once(name):
    window = {"start": 5, "end": 5, "final": 0.3}
    assert [SCHEDULES[name](step, **window) for step in (4, 5, 6)] == [1.0, 0.3, 0.3]


def test_one_shot_steps_down_at_the_start():
    densities = [one_shot(step, start=2, end=9, final=0.25, initial=0.5) for step in range(5)]
    assert densities == [0.5, 0.5, 0.25, 0.25, 0.25]


def test_linear_loses_the_same_at_every_step():
    densities = [linear(step, start=0, end=8, final=0.5) for step in range(9)]
    assert densities == [1 - step / 16 for step in range(9)]


def test_cubic_is_the_equation_of_zhu_and_gupta_in_sparsities():
    def sparsity(t, s_i, s_f, t0, n, dt):  # their eq. 1
        return s_f + (s_i - s_f) * (1 - (t - t0) / (n * dt)) ** 3

    for step in range(30, 130, 10):
        theirs = 1 - sparsity(step, 0.2, 0.9, t0=30, n=10, dt=10)
        ours = cubic(step, start=30, end=130, final=0.1, initial=0.8)
        assert math.isclose(ours, theirs, rel_tol=1e-12)


def test_geometric_keeps_the_same_share_of_the_rest_at_every_step():
    densities = [geometric(step, start=0, end=10, final=0.8**10) for step in range(11)]
    for rounds, density in enumerate(densities):  # iterative pruning that drops 20 % a round
        assert math.isclose(density, 0.8**rounds, rel_tol=1e-12)


@every_schedule
@pytest.mark.parametrize(
    ("final", "initial"), [(0.5, 0.4), (0.0, 1.0), (-0.1, 1.0), (0.5, 1.5), (math.nan, 1.0)]
)
def test_densities_out_of_order_or_range_are_named(name, final, initial):
    message = f"final density {final}, initial {initial}; expected 0 < final <= initial <= 1"
    with pytest.raises(ConfigError, match=message):
        SCHEDULES[name](3, start=0, end=10, final=final, initial=initial)


@every_schedule
def test_a_reversed_window_is_named(name):
    with pytest.raises(ConfigError, match="from step 10 to step 4"):
        SCHEDULES[name](3, start=10, end=4, final=0.5)

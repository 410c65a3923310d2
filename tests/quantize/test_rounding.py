import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.quantize import ROUNDINGS

every_rounding = pytest.mark.parametrize("name", ROUNDINGS)
numbers = st.floats(-1000, 1000, width=32)


@every_rounding
@given(st.lists(numbers, min_size=1, max_size=20))
def test_a_number_goes_to_one_of_its_two_neighbours_and_a_whole_number_stays(name, values):
    x = torch.tensor(values)
    down = x.floor()
    new = ROUNDINGS[name](x, torch.Generator().manual_seed(0))
    assert ((new == down) | (new == x.ceil())).all()
    assert torch.equal(ROUNDINGS[name](down, torch.Generator()), down)


def test_half_way_goes_to_the_even_number_and_floor_goes_down():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert ROUNDINGS["nearest"](x).tolist() == [-2.0, -0.0, 0.0, 2.0, 2.0]
    assert ROUNDINGS["floor"](x).tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_stochastic_rounding_is_right_on_average():
    n = 1_000_000
    draw = torch.Generator().manual_seed(1)
    for fraction in (0.1, 0.5, 0.875):
        new = ROUNDINGS["stochastic"](torch.full((n,), 3 + fraction), draw).double()
        standard_error = math.sqrt(fraction * (1 - fraction) / n)
        assert abs(new.mean() - (3 + fraction)) < 4 * standard_error
        assert set(new.unique().tolist()) == {3.0, 4.0}


def test_small_updates_survive_where_nearest_rounding_stalls():
    draw = torch.Generator().manual_seed(2)
    near = some = torch.zeros(1000)
    for _ in range(100):
        near = ROUNDINGS["nearest"](near + 0.05)
        some = ROUNDINGS["stochastic"](some + 0.05, draw)
    assert (near == 0).all()
    assert abs(some.mean() - 5) < 4 * math.sqrt(100 * 0.05 * 0.95 / 1000)


def test_a_seed_decides_the_draw_and_the_global_generator_is_left_alone():
    def draw(seed):
        return ROUNDINGS["stochastic"](torch.full((50,), 0.5), torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)

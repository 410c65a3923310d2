import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize.bitwise import bit_plane_dot, bit_planes, popcount, xnor_dot


@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 8), st.integers(0, 70))
def test_bit_planes_give_the_integer_dot_product(seed, x_bits, y_bits, size):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(2**x_bits, (3, 1, size), generator=draw)
    y = torch.randint(2**y_bits, (4, size), generator=draw)
    assert torch.equal(bit_plane_dot(x, y, x_bits, y_bits), (x * y).sum(-1))


@given(st.integers(0, 2**31), st.integers(1, 70))
def test_popcounts_give_the_dot_product_of_signs(seed, size):
    draw = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(2, size, generator=draw) for _ in range(2))
    assert torch.equal(xnor_dot(x, y), (x.sign() * y.sign()).sum(-1).long())


def test_ones_are_counted_and_what_does_not_fit_is_refused():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert popcount(bytes_[:, None]).tolist() == [value.bit_count() for value in range(256)]
    with pytest.raises(ConfigError, match="not from 0 to 3"):
        bit_planes(torch.tensor([4]), 2)
    with pytest.raises(ConfigError, match="not from 0 to 3"):
        bit_planes(torch.tensor([-1]), 2)

"""Grids of integers and codebooks of rows found in values, against those that they were made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.run.grids import grid_of, row_books


def product(grid):
    """What the kernels take the matrix for, one value after another."""
    rows, columns = grid.integers.shape
    out = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            integer = np.float32(grid.integers[row, column])
            out[row, column] = integer * grid.scales[row, column // grid.group]
    return out


def made(rows, columns, bits, group, *, asymmetric=False, seed=0):
    draws = np.random.default_rng(seed)
    low = -(1 << (bits - 1))
    groups = -(-columns // group)
    integers = draws.integers(low, -low, size=(rows, columns))
    if asymmetric:
        shift = draws.integers(1 + low, -low, size=(rows, groups))
        integers += np.repeat(shift, group, axis=1)[:, :columns]
    scales = draws.uniform(1e-4, 1, size=(rows, groups)).astype(np.float32)
    return integers.astype(np.float32) * np.repeat(scales, group, axis=1)[:, :columns]


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 150),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, 128, 1000]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_grid_is_found_and_comes_back_bit_for_bit(rows, columns, bits, group, asymmetric, seed):
    group = min(group, columns)
    matrix = made(rows, columns, bits, group, asymmetric=asymmetric, seed=seed)
    grid = grid_of(matrix)
    assert grid.group >= group
    assert np.array_equal(product(grid), matrix)


@pytest.mark.parametrize(("bits", "low", "high"), [(2, -2, 1), (4, -8, 7), (4, 0, 15), (8, 0, 255)])
def test_what_torch_quantizes_by_channels_is_a_grid_of_its_bits(bits, low, high):
    weight = torch.randn(8, 300, generator=torch.Generator().manual_seed(bits))
    scale = weight.abs().amax(1) / (high - low) * 2
    zero = torch.full((8,), (low + high + 1) // 2, dtype=torch.int32)
    quantized = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, low, high)
    grid = grid_of(quantized.numpy())
    assert grid.name == f"int{bits}"
    assert np.array_equal(product(grid), quantized.numpy())
    torch.testing.assert_close(torch.from_numpy(grid.scales[:, 0]), scale, rtol=2e-7, atol=0)


def test_the_widest_group_is_named():
    assert grid_of(made(6, 512, 4, 512)).name == "int4"
    assert grid_of(made(6, 512, 4, 128)).name == "int4 group 128"
    assert grid_of(made(6, 520, 8, 32)).name == "int8 group 32"
    assert grid_of(made(6, 512, 4, 128), groups=(64,)).name == "int4 group 64"


def test_zero_and_one_valued_groups_have_a_scale():
    matrix = np.float32([[0, 0], [0.3, 0.3], [-0.7, 0]])
    assert np.array_equal(product(grid_of(matrix)), matrix)


def test_zeros_that_fill_up_a_group_are_no_weights():
    # 20 columns in groups of 16: integers from 200 to 215, which 4 bits hold unless zeros count.
    integers = 200 + np.arange(20) % 16
    scale = np.float32(0.37) * (1 + np.arange(20) // 16).astype(np.float32)
    grid = grid_of((integers.astype(np.float32) * scale)[None], groups=(16,))
    assert grid.bits == 4


@pytest.mark.parametrize("odd", [3.14159, 300.0, -700.0, np.inf, np.nan])
@pytest.mark.parametrize("row", [0, 299])
def test_one_value_off_the_grid_is_no_grid(odd, row):
    matrix = np.ones((300, 40), np.float32)
    matrix[row, ::17] = odd  # in each group
    assert grid_of(matrix) is None


def test_integers_further_apart_than_a_byte_are_no_grid():
    assert grid_of(np.float32([[-100, 1, 155]])) is not None
    assert grid_of(np.float32([[-101, 1, 155]])) is None


def test_denormals_are_no_grid_without_a_warning():
    for factors in ([1, 127], [5, 7], [1, 2]):
        matrix = np.float32([np.array(factors) * 2.0**-149])
        grid = grid_of(matrix)
        assert grid is None or np.array_equal(product(grid), matrix)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 16), st.integers(0, 1000))
def test_codebooks_of_rows_come_back_bit_for_bit(rows, columns, size, seed):
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(rows, size)).astype(np.float32)
    matrix = np.take_along_axis(values, draws.integers(size, size=(rows, columns)), axis=1)
    books, codes = row_books(matrix)
    assert books.shape == (rows, 16)
    assert np.array_equal(np.take_along_axis(books, codes.astype(np.int64), axis=1), matrix)


@pytest.mark.parametrize("row", [0, 29])
def test_a_row_of_seventeen_values_or_with_nan_has_no_codebook(row):
    matrix = np.ones((30, 40), np.float32)
    matrix[row, :16] = np.arange(16)
    assert row_books(matrix) is not None
    matrix[row, 16] = 16
    assert row_books(matrix) is None
    matrix[row, 16] = np.nan
    assert row_books(matrix) is None

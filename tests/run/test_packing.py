"""Weights as entries, and the layouts they are packed into, against NumPy."""

import numpy as np
import pytest
import torch

from tersor import _native
from tersor.run.layers import dense_of
from tersor.run.packing import (
    code_bits,
    coded,
    entries_of,
    pack_codes,
    pack_integers,
    pack_sparse,
    widest_tile,
)


def matrix(rows, columns, values, *, zeros=0.5, seed=0):
    """A matrix of exactly so many values that are not zero."""
    draws = np.random.default_rng(seed)
    book = draws.normal(size=values).astype(np.float32)
    flat = book[draws.integers(values, size=rows * columns)]
    flat[draws.random(len(flat)) < zeros] = 0
    flat[:values] = book
    return torch.from_numpy(flat.reshape(rows, columns))


@pytest.mark.parametrize("values", [1, 2, 16, 17, 255, 256])
def test_entries_are_the_places_and_values_that_are_not_zero(values):
    m = matrix(30, 50, values)
    entries = entries_of(m)
    assert np.array_equal(entries.positions, np.flatnonzero(m.numpy()))
    assert np.array_equal(entries.book, np.unique(m.numpy()[m.numpy() != 0]))
    assert np.array_equal(entries.book[entries.codes], m.numpy()[m.numpy() != 0])
    assert entries.density == pytest.approx(float((m != 0).float().mean()))
    assert torch.equal(entries.dense(), m)


def test_beyond_256_values_entries_keep_them_as_they_are():
    m = matrix(30, 50, 257)
    entries = entries_of(m)
    assert entries.book is None
    assert entries.codes is None
    assert np.array_equal(entries.values, m.numpy()[m.numpy() != 0])
    assert torch.equal(entries.dense(), m)


def test_values_that_a_sample_of_the_entries_misses_are_found():
    # The codebook is begun from every 24th value; these stand between.
    values = np.ones(100_000, np.float32)
    values[[1, 50_001, 99_999]] = [2, 3, -4]
    entries = coded(1, 100_000, np.arange(100_000), values)
    assert entries.book.tolist() == [-4, 1, 2, 3]
    assert np.array_equal(entries.book[entries.codes], values)


def test_nan_is_no_code():
    m = torch.tensor([[1.0, torch.nan, 0.0], [1.0, 1.0, 2.0]])
    entries = entries_of(m)
    assert entries.book is None
    assert entries.positions.tolist() == [0, 1, 3, 4, 5]


def test_a_matrix_of_zeros_has_no_entries():
    entries = entries_of(torch.zeros(3, 4))
    assert len(entries.positions) == 0
    assert torch.equal(entries.dense(), torch.zeros(3, 4))
    assert torch.equal(dense_of("sparse", pack_sparse(entries, tile=4), 3, 4), torch.zeros(3, 4))
    assert torch.equal(dense_of("codes", pack_codes(entries), 3, 4), torch.zeros(3, 4))
    assert torch.equal(dense_of("codes", pack_integers(entries), 3, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("values", [9, 400])
def test_a_matrix_is_turned_cut_and_spread_as_its_entries_are(values):
    m = matrix(12, 40, values)
    entries = entries_of(m)
    assert torch.equal(entries.transposed().dense(), m.T)
    assert (np.diff(entries.transposed().positions) > 0).all()
    assert torch.equal(entries.some_rows(5, 9).dense(), m[5:9])
    assert torch.equal(entries.some_rows(0, 12).dense(), m)
    groups = torch.block_diag(m[:4], m[4:8], m[8:])
    assert torch.equal(entries.spread(3).dense(), groups)
    assert entries.spread(1) is entries


@pytest.mark.parametrize(
    ("values", "bits"),
    [(1, 4), (16, 4), (17, 5), (32, 5), (33, 6), (65, 7), (128, 7), (129, 8), (256, 8), (257, 0)],
)
def test_codes_take_the_fewest_bits_and_tiles_the_rest(values, bits):
    entries = entries_of(matrix(30, 50, values))
    assert code_bits(entries) == bits
    widest = widest_tile(entries)
    assert widest == (65536 >> bits if bits else 32768)
    packed = pack_sparse(entries, tile=widest)
    assert _native.sparse_shape(packed.data_ptr(), packed.numel())[4] == bits
    with pytest.raises(ValueError, match=f"tiles of {widest + 1} columns"):
        pack_sparse(entries, tile=widest + 1)


@pytest.mark.parametrize(("rows", "block"), [(1, 8), (100, 8), (512, 32), (5000, 128)])
def test_there_are_about_sixteen_blocks_of_rows(rows, block):
    packed = pack_sparse(entries_of(torch.ones(rows, 1)), tile=1)
    assert _native.sparse_shape(packed.data_ptr(), packed.numel())[2] == block


@pytest.mark.parametrize(
    ("values", "zeros", "fits"),
    [
        (1, 0.0, True),
        (1, 0.5, True),
        (2, 0.0, True),
        (2, 0.5, True),
        (3, 0.5, True),
        (16, 0.0, True),
        (16, 0.5, True),
        (255, 0.5, True),
        (256, 0.0, True),
        (256, 0.5, False),
        (257, 0.0, False),
    ],
)
def test_dense_codes_count_zero_as_a_value_where_there_is_one(values, zeros, fits):
    m = matrix(31, 50, values, zeros=zeros)
    packed = pack_codes(entries_of(m))
    assert (packed is not None) == fits
    if packed is not None:
        assert torch.equal(dense_of("codes", packed, 31, 50), m)


@pytest.mark.parametrize(
    ("values", "zeros", "bits"),
    [(2, 0.0, 1), (1, 0.5, 1), (2, 0.5, 2), (4, 0.0, 2), (4, 0.5, 4), (16, 0.0, 4), (16, 0.5, 8)],
)
def test_dense_codes_take_the_fewest_bits(values, zeros, bits):
    packed = pack_codes(entries_of(matrix(30, 50, values, zeros=zeros)))
    assert packed.numel() == _native.codes_bytes(30, 50, bits, False)


def grid(rows, columns, *, bits=8, seed=0):
    draws = np.random.default_rng(seed)
    half = 1 << (bits - 1)
    integers = draws.integers(-half, half, size=(rows, columns)).astype(np.float32)
    scales = draws.uniform(1e-3, 1, size=(rows, 1)).astype(np.float32)
    return torch.from_numpy(integers * scales)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_integer_grid_is_found_and_comes_back_bit_for_bit(bits, seed):
    m = grid(16, 60, bits=bits, seed=seed)
    assert torch.equal(dense_of("codes", pack_integers(entries_of(m)), 16, 60), m)


def test_a_grid_whose_step_is_no_weight_itself_is_found():
    m = torch.tensor([[6.0, -4.0, 0.0, 10.0], [9.0, 15.0, 0.0, -21.0]]) * 0.1
    assert torch.equal(dense_of("codes", pack_integers(entries_of(m)), 2, 4), m)


def test_rows_of_zeros_and_of_one_value_are_grids():
    m = torch.tensor([[0.0, 0.0], [0.3, 0.3], [-0.7, 0.0]])
    assert torch.equal(dense_of("codes", pack_integers(entries_of(m)), 3, 2), m)


@pytest.mark.parametrize("least", [7, 9, 50, 127])
def test_a_grid_is_found_whose_least_weight_is_many_steps(least):
    m = torch.tensor([[float(least), -128.0, 127.0, 0.0]]) * 0.37
    assert torch.equal(dense_of("codes", pack_integers(entries_of(m)), 1, 4), m)


@pytest.mark.parametrize(
    "row",
    [[1.0, 3.14159, 2.71828], [1.0, 300.0, 3.0], [1.0, torch.inf, 2.0], [1.0, torch.nan, 2.0]],
)
def test_other_values_are_no_grid(row):
    m = torch.cat([grid(3, 3), torch.tensor([row])])
    assert pack_integers(entries_of(m)) is None


def test_the_least_denormals_are_a_grid_or_none_without_a_warning():
    least = 2.0**-149
    for factors in ([1.0, 127.0], [1.0, 128.0], [2.0, 3.0], [5.0, 7.0]):
        m = torch.tensor([factors], dtype=torch.float64).mul(least).float()
        packed = pack_integers(entries_of(m))
        assert packed is None or torch.equal(dense_of("codes", packed, 1, 2), m)

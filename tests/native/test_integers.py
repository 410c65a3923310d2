"""Dense matrices of integers in kernel storage: their products against float64, and bad bytes."""

import numpy as np
import pytest
import torch
from native_calls import ACTIVATIONS, TRUTHS, error, linear, numbers

from tersor import _native

CLOSE = 2e-6  # of the largest output


def packed(integers, scales, bits, group):
    sides = (*integers.shape, bits, group)
    out = torch.zeros(_native.integers_bytes(*sides), dtype=torch.uint8)
    _native.integers_pack(*sides, integers.astype(np.int16).ravel(), scales.ravel(), out.numpy())
    return out


def integer_matrix(rows, columns, bits, group, *, asymmetric=False, seed=0):
    """Integers, the scales of the groups, and the matrix; asymmetric groups lie anywhere."""
    draws = np.random.default_rng(seed)
    half = 1 << (bits - 1)
    integers = draws.integers(-half, half, size=(rows, columns))
    integers.flat[0] = -half
    groups = -(-columns // group)
    if asymmetric:
        shift = draws.integers(1 - half, half, size=(rows, groups))
        integers += np.repeat(shift, group, axis=1)[:, :columns]
    scales = draws.uniform(0.01, 2.0, size=(rows, groups)).astype(np.float32)
    of_columns = np.repeat(scales, group, axis=1)[:, :columns]
    return integers, scales, torch.from_numpy(integers.astype(np.float32) * of_columns)


def unpacked(bytes_, shape):
    out = torch.full(shape, torch.nan)
    _native.codes_dense(bytes_.data_ptr(), bytes_.numel(), out.data_ptr())
    return out


# rows, columns, group: below and above a block of 16 rows, a piece, and what is summed at once
SHAPES = [
    (1, 1, 1),
    (5, 3, 3),
    (16, 16, 4),
    (33, 63, 32),
    (7, 65, 65),
    (40, 300, 7),
    (18, 300, 128),
    (3, 600, 600),
    (70, 700, 257),
]


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_are_those_of_float64(isa, bits, asymmetric):
    for rows, columns, group in SHAPES:
        made = integer_matrix(rows, columns, bits, group, asymmetric=asymmetric)
        bytes_ = packed(*made[:2], bits, group)
        for batch in (1, 2, 3, 4, 9):
            x = numbers(batch, columns)
            want = x.double() @ made[2].double().T
            got = linear(bytes_, x, rows, coded=True)
            assert error(got, want) <= CLOSE, (rows, columns, group, batch)


def test_the_furthest_integers_are_multiplied_exactly(isa):
    # 255 * 256 columns of one sign, the largest sums that are taken as integers.
    for least, greatest in ((0, 255), (-255, 0), (-128, 127)):
        integers = np.full((2, 600), greatest)
        integers[1] = least
        integers[:, 0], integers[:, 1] = least, greatest
        bytes_ = packed(integers, np.ones((2, 1), np.float32), 8, 600)
        for value in (1.0, -1.0, 0.996, -0.994):
            x = torch.full((1, 600), value)
            want = x.double() @ torch.from_numpy(integers).double().T
            close = 2e-7 if isa == "avx512_vnni" else CLOSE
            assert error(linear(bytes_, x, 2, coded=True), want) <= close


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30])
def test_products_keep_to_the_size_of_the_input(isa, factor):
    integers, scales, matrix = integer_matrix(6, 200, 8, 200)
    x = numbers(2, 200) * factor
    want = x.double() @ matrix.double().T
    got = linear(packed(integers, scales, 8, 200), x, 6, coded=True)
    assert error(got, want) <= (1e-5 if factor == 1e-38 else CLOSE)  # denormal inputs have few bits


@pytest.mark.parametrize("largest", [20, 1e3, 1e5, 1e10])
def test_one_large_input_does_not_drown_the_others(isa, largest):
    integers, scales, matrix = integer_matrix(6, 200, 8, 200)
    integers[:, 7], matrix[:, 7] = 0, 0
    x = numbers(2, 200)
    x[1, 7] = largest
    want = x.double() @ matrix.double().T
    got = linear(packed(integers, scales, 8, 200), x, 6, coded=True)
    assert ((got.double() - want).abs().amax(1) <= CLOSE * want.abs().amax(1)).all()


@pytest.mark.parametrize("special", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_goes_through_integers_as_through_floats(isa, special):
    integers, scales, matrix = integer_matrix(6, 40, 8, 40)
    matrix[2, 7], integers[2, 7] = 0, 0
    x = numbers(2, 40)
    x[1, 7] = special
    got = linear(packed(integers, scales, 8, 40), x, 6, coded=True)
    torch.testing.assert_close(got, x @ matrix.T, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_an_input_of_zeros_gives_zeros(isa):
    integers, scales, _ = integer_matrix(6, 40, 4, 16)
    got = linear(packed(integers, scales, 4, 16), torch.zeros(3, 40), 6, coded=True)
    assert torch.equal(got, torch.zeros(3, 6))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scale_bias_and_activation_follow_the_sum(isa, activation):
    integers, scales, matrix = integer_matrix(37, 90, 4, 32)
    bytes_ = packed(integers, scales, 4, 32)
    x, scale, bias = numbers(3, 90), numbers(37, seed=1), numbers(37, seed=2)
    want = TRUTHS[activation](x.double() @ matrix.double().T * scale.double() + bias.double())
    got = linear(bytes_, x, 37, scale=scale, bias=bias, activation=activation, coded=True)
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_threads_and_repetition_change_no_bit(isa, bits):
    bytes_ = packed(*integer_matrix(130, 400, bits, 128)[:2], bits, 128)
    x = numbers(2, 400)  # 104,000 products: enough for a second thread
    first = linear(bytes_, x, 130, coded=True)
    assert torch.equal(linear(bytes_, x, 130, coded=True), first)
    for threads in (2, 5):
        assert torch.equal(linear(bytes_, x, 130, coded=True, threads=threads), first)


def test_many_samples_are_taken_in_slices(isa):
    integers, scales, matrix = integer_matrix(2, 700, 4, 100)
    x = numbers(1700, 700)  # their bytes take more than 4 MiB
    want = x.double() @ matrix.double().T
    assert error(linear(packed(integers, scales, 4, 100), x, 2, coded=True), want) <= CLOSE


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_dense_matrix_comes_back_bit_for_bit(bits, asymmetric):
    for rows, columns, group in SHAPES:
        made = integer_matrix(rows, columns, bits, group, asymmetric=asymmetric)
        assert torch.equal(unpacked(packed(*made[:2], bits, group), (rows, columns)), made[2])


def test_a_weight_takes_its_bits_and_six_bytes_a_group():
    # Whole blocks, pieces and groups: 64 bytes of head.
    for bits in (2, 4, 8):
        size = 4096 * 1024 * bits // 8 + 4096 * 8 * 6 + 64
        assert _native.integers_bytes(4096, 1024, bits, 128) == size


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4, 8, 4), "0 x 4, expected sides of 1"),
        ((4, 2**31, 8, 4), "4 x 2147483648"),
        ((4, 4, 3, 4), "codes of 3 bits"),
        ((4, 4, 1, 4), "codes of 1 bits"),
        ((4, 40, 4, 3), "groups of 3 columns, expected 4 to 40"),
        ((4, 40, 4, 41), "groups of 41 columns, expected 4 to 40"),
    ],
)
def test_shapes_that_cannot_be_laid_out_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        _native.integers_bytes(*shape)


@pytest.mark.parametrize(
    ("integers", "scales", "bits", "message"),
    [
        ([[0, 16]], [[1]], 4, "integers from 0 to 16 at row 0, and codes have 4 bits"),
        ([[0, 0], [256, 100]], [[1], [1]], 8, "integers from 100 to 256 at row 1"),
        ([[-256, -100]], [[1]], 8, "integers from -256 to -100"),
        ([[0, 1]], [[1, 1]], 4, "2 scales"),
    ],
)
def test_what_is_no_matrix_is_refused(integers, scales, bits, message):
    with pytest.raises(ValueError, match=message):
        packed(np.array(integers), np.array(scales, np.float32), bits, 2)


def test_bytes_that_hold_no_matrix_are_refused():
    bytes_ = packed(np.zeros((3, 5)), np.ones((3, 1), np.float32), 4, 5)
    with pytest.raises(ValueError, match="code matrix: 63 bytes hold none"):
        unpacked(bytes_[:63].clone(), (3, 5))
    with pytest.raises(ValueError, match=f"{len(bytes_) - 1} bytes, expected {len(bytes_)}"):
        unpacked(bytes_[:-1].clone(), (3, 5))
    for place, wrong in ((8, 0), (16, 0), (24, 3), (32, 0), (32, 6)):
        bad = bytes_.clone()
        bad[place] = wrong
        with pytest.raises(ValueError, match="integer matrix: "):
            unpacked(bad, (3, 5))
        with pytest.raises(ValueError, match="integer matrix: "):
            linear(bad, torch.zeros(1, 5), 3, coded=True)

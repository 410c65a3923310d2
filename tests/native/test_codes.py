"""Dense matrices of codes in kernel storage: their products against float64, and bad bytes."""

import numpy as np
import pytest
import torch
from native_calls import ACTIVATIONS, TRUTHS, error, linear, numbers

from tersor import _native

CLOSE = 2e-6  # of the largest output


def packed(codes, table, bits, *, affine=False):
    rows, columns = codes.shape
    out = torch.zeros(_native.codes_bytes(rows, columns, bits, affine), dtype=torch.uint8)
    flat = codes.astype(np.uint16).ravel()
    _native.codes_pack(rows, columns, bits, affine, flat, table, out.numpy())
    return out


def book_matrix(rows, columns, size, seed=0):
    """Codes below `size`, their codebook, and the matrix."""
    draws = np.random.default_rng(seed)
    codes = draws.integers(size, size=(rows, columns))
    book = draws.normal(size=size).astype(np.float32)
    return codes, book, torch.from_numpy(book[codes])


def integer_matrix(rows, columns, seed=0):
    """Signed bytes in two's complement, the scale of each row, and the matrix."""
    draws = np.random.default_rng(seed)
    integers = draws.integers(-128, 128, size=(rows, columns))
    integers.flat[0] = -128
    scales = draws.uniform(0.01, 2.0, size=rows).astype(np.float32)
    dense = integers.astype(np.float32) * scales[:, None]
    return integers & 255, scales, torch.from_numpy(dense)


def unpacked(bytes_, shape):
    out = torch.full(shape, torch.nan)
    _native.codes_dense(bytes_.data_ptr(), bytes_.numel(), out.data_ptr())
    return out


SHAPES = [(1, 1), (2, 15), (5, 16), (33, 63), (32, 64), (7, 65), (3, 128), (4, 513), (70, 700)]
BOOKS = [(1, 1), (1, 2), (2, 3), (2, 4), (4, 5), (4, 16), (8, 17), (8, 256)]  # bits, centroids


@pytest.mark.parametrize(("bits", "size"), BOOKS)
def test_products_are_those_of_float64(isa, bits, size):
    for rows, columns in SHAPES:
        codes, book, matrix = book_matrix(rows, columns, size)
        bytes_ = packed(codes, book, bits)
        for batch in (1, 2, 9):
            x = numbers(batch, columns)
            want = x.double() @ matrix.double().T
            assert error(linear(bytes_, x, rows, coded=True), want) <= CLOSE, (rows, columns)


def test_products_of_integers_are_those_of_float64(isa):
    for rows, columns in SHAPES:
        codes, scales, matrix = integer_matrix(rows, columns)
        bytes_ = packed(codes, scales, 8, affine=True)
        for batch in (1, 2, 9):
            x = numbers(batch, columns)
            want = x.double() @ matrix.double().T
            assert error(linear(bytes_, x, rows, coded=True), want) <= CLOSE, (rows, columns)


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30])
def test_products_of_integers_keep_to_the_size_of_the_input(isa, factor):
    codes, scales, matrix = integer_matrix(6, 200)
    x = numbers(2, 200) * factor
    want = x.double() @ matrix.double().T
    got = linear(packed(codes, scales, 8, affine=True), x, 6, coded=True)
    assert error(got, want) <= (1e-5 if factor == 1e-38 else CLOSE)  # denormal inputs have few bits


@pytest.mark.parametrize("largest", [1e3, 1e5, 1e10])
def test_one_large_input_does_not_drown_the_others(isa, largest):
    codes, scales, matrix = integer_matrix(6, 200)
    codes[:, 7], matrix[:, 7] = 0, 0
    x = numbers(2, 200)
    x[1, 7] = largest
    want = x.double() @ matrix.double().T
    got = linear(packed(codes, scales, 8, affine=True), x, 6, coded=True)
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize("special", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_goes_through_integers_as_through_floats(isa, special):
    codes, scales, matrix = integer_matrix(6, 40)
    matrix[2, 7], codes[2, 7] = 0, 0
    x = numbers(2, 40)
    x[1, 7] = special
    got = linear(packed(codes, scales, 8, affine=True), x, 6, coded=True)
    torch.testing.assert_close(got, x @ matrix.T, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_an_input_of_zeros_gives_zeros(isa):
    codes, scales, _ = integer_matrix(6, 40)
    got = linear(packed(codes, scales, 8, affine=True), torch.zeros(3, 40), 6, coded=True)
    assert torch.equal(got, torch.zeros(3, 6))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("affine", [False, True])
def test_scale_bias_and_activation_follow_the_sum(isa, activation, affine):
    codes, table, matrix = integer_matrix(37, 90) if affine else book_matrix(37, 90, 200)
    bytes_ = packed(codes, table, 8, affine=affine)
    x, scale, bias = numbers(3, 90), numbers(37, seed=1), numbers(37, seed=2)
    want = TRUTHS[activation](x.double() @ matrix.double().T * scale.double() + bias.double())
    got = linear(bytes_, x, 37, scale=scale, bias=bias, activation=activation, coded=True)
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize("bits", [1, 2, 4, 8, "integers"])
def test_threads_and_repetition_change_no_bit(isa, bits):
    affine = bits == "integers"
    width = 8 if affine else bits
    made = integer_matrix(130, 400) if affine else book_matrix(130, 400, 1 << width)
    bytes_ = packed(*made[:2], width, affine=affine)
    x = numbers(2, 400)  # 104,000 products: enough for a second thread
    first = linear(bytes_, x, 130, coded=True)
    assert torch.equal(linear(bytes_, x, 130, coded=True), first)
    for threads in (2, 5):
        assert torch.equal(linear(bytes_, x, 130, coded=True, threads=threads), first)


@pytest.mark.parametrize(("bits", "size"), BOOKS)
def test_the_dense_matrix_comes_back_bit_for_bit(bits, size):
    for rows, columns in SHAPES:
        codes, book, matrix = book_matrix(rows, columns, size)
        assert torch.equal(unpacked(packed(codes, book, bits), (rows, columns)), matrix)


def test_the_dense_matrix_of_integers_comes_back_bit_for_bit():
    for rows, columns in SHAPES:
        codes, scales, matrix = integer_matrix(rows, columns)
        bytes_ = packed(codes, scales, 8, affine=True)
        assert torch.equal(unpacked(bytes_, (rows, columns)), matrix)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4, 8, False), "0 x 4, expected sides of 1"),
        ((4, 2**31, 8, False), "4 x 2147483648"),
        ((4, 4, 3, False), "codes of 3 bits"),
        ((4, 4, 16, False), "codes of 16 bits"),
        ((4, 4, 4, True), "integers have 8 bits"),
    ],
)
def test_shapes_that_cannot_be_laid_out_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        _native.codes_bytes(*shape)


@pytest.mark.parametrize(
    ("code", "table", "affine", "message"),
    [
        (3, np.ones(3, np.float32), False, "code 3 at row 1"),
        (256, np.ones(2, np.float32), True, "code 256 at row 1"),
        (0, np.ones(0, np.float32), False, "a table of 0 values"),
        (0, np.ones(257, np.float32), False, "a table of 257 values"),
        (0, np.ones(3, np.float32), True, "a table of 3 values"),
    ],
)
def test_codes_and_tables_that_are_no_matrix_are_refused(code, table, affine, message):
    codes = np.array([[0, 0], [0, code]])
    with pytest.raises(ValueError, match=message):
        packed(codes, table, 8, affine=affine)


def test_bytes_that_hold_no_matrix_are_refused():
    bytes_ = packed(np.zeros((3, 5)), np.ones(1, np.float32), 1)
    with pytest.raises(ValueError, match="code matrix: 63 bytes hold none"):
        unpacked(bytes_[:63].clone(), (3, 5))
    with pytest.raises(ValueError, match=f"{len(bytes_) - 1} bytes, expected {len(bytes_)}"):
        unpacked(bytes_[:-1].clone(), (3, 5))
    with pytest.raises(ValueError, match="the bytes hold none"):
        unpacked(torch.zeros_like(bytes_), (3, 5))
    with pytest.raises(ValueError, match="the bytes hold none"):
        linear(torch.zeros_like(bytes_), torch.zeros(1, 5), 3, coded=True)

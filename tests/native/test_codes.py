"""Dense matrices of codes in kernel storage: their products against float64, and bad bytes."""

import numpy as np
import pytest
import torch
from native_calls import ACTIVATIONS, TRUTHS, error, linear, numbers

from tersor import _native

CLOSE = 2e-6  # of the largest output


def packed(codes, table, bits, *, row_books=False):
    rows, columns = codes.shape
    out = torch.zeros(_native.codes_bytes(rows, columns, bits, row_books), dtype=torch.uint8)
    flat = codes.astype(np.uint16).ravel()
    _native.codes_pack(rows, columns, bits, row_books, flat, table, out.numpy())
    return out


def book_matrix(rows, columns, size, seed=0):
    """Codes below `size`, their codebook, and the matrix."""
    draws = np.random.default_rng(seed)
    codes = draws.integers(size, size=(rows, columns))
    book = draws.normal(size=size).astype(np.float32)
    return codes, book, torch.from_numpy(book[codes])


def row_book_matrix(rows, columns, bits, seed=0):
    """Codes, a codebook for each row, and the matrix."""
    draws = np.random.default_rng(seed)
    codes = draws.integers(1 << bits, size=(rows, columns))
    books = draws.normal(size=(rows, 1 << bits)).astype(np.float32)
    return codes, books.ravel(), torch.from_numpy(np.take_along_axis(books, codes, 1))


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


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_products_with_a_codebook_for_each_row_are_those_of_float64(isa, bits):
    for rows, columns in SHAPES:
        codes, books, matrix = row_book_matrix(rows, columns, bits)
        bytes_ = packed(codes, books, bits, row_books=True)
        for batch in (1, 2, 3, 4, 9):
            x = numbers(batch, columns)
            want = x.double() @ matrix.double().T
            assert error(linear(bytes_, x, rows, coded=True), want) <= CLOSE, (rows, columns)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("row_books", [False, True])
def test_scale_bias_and_activation_follow_the_sum(isa, activation, row_books):
    made = row_book_matrix(37, 90, 8) if row_books else book_matrix(37, 90, 200)
    codes, table, matrix = made
    bytes_ = packed(codes, table, 8, row_books=row_books)
    x, scale, bias = numbers(3, 90), numbers(37, seed=1), numbers(37, seed=2)
    want = TRUTHS[activation](x.double() @ matrix.double().T * scale.double() + bias.double())
    got = linear(bytes_, x, 37, scale=scale, bias=bias, activation=activation, coded=True)
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("row_books", [False, True])
def test_threads_and_repetition_change_no_bit(isa, bits, row_books):
    make = row_book_matrix if row_books else lambda r, c, bits: book_matrix(r, c, 1 << bits)
    bytes_ = packed(*make(130, 400, bits)[:2], bits, row_books=row_books)
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


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_dense_matrix_of_row_codebooks_comes_back_bit_for_bit(bits):
    for rows, columns in SHAPES:
        codes, books, matrix = row_book_matrix(rows, columns, bits)
        bytes_ = packed(codes, books, bits, row_books=True)
        assert torch.equal(unpacked(bytes_, (rows, columns)), matrix)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4, 8, False), "0 x 4, expected sides of 1"),
        ((4, 2**31, 8, False), "4 x 2147483648"),
        ((4, 4, 3, False), "codes of 3 bits"),
        ((4, 4, 16, False), "codes of 16 bits"),
    ],
)
def test_shapes_that_cannot_be_laid_out_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        _native.codes_bytes(*shape)


@pytest.mark.parametrize(
    ("code", "table", "row_books", "message"),
    [
        (3, np.ones(3, np.float32), False, "code 3 at row 1"),
        (256, np.ones(512, np.float32), True, "code 256 at row 1"),
        (0, np.ones(0, np.float32), False, "a table of 0 values"),
        (0, np.ones(257, np.float32), False, "a table of 257 values"),
        (0, np.ones(3, np.float32), True, "a table of 3 values"),
    ],
)
def test_codes_and_tables_that_are_no_matrix_are_refused(code, table, row_books, message):
    codes = np.array([[0, 0], [0, code]])
    with pytest.raises(ValueError, match=message):
        packed(codes, table, 8, row_books=row_books)


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

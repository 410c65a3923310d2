"""Sparse matrices in kernel storage: their products against float64, and bytes that hold none."""

import numpy as np
import pytest
import torch
from native_calls import (
    ACTIVATIONS,
    TRUTHS,
    error,
    linear,
    numbers,
    packed_directly,
    sparse_matrix,
)

from tersor import _native
from tersor.run.packing import entries_of, pack_sparse

CLOSE = 2e-6  # of the largest output
BATCHES = (1, 2, 3, 4, 5, 7, 9, 16, 17, 31, 33, 63, 65, 127, 130)
VALUES = {4: 16, 5: 17, 6: 64, 7: 100, 8: 256, 0: None}  # code bits to distinct values


def unpacked(packed, shape):
    out = torch.zeros(shape)
    _native.sparse_dense(packed.data_ptr(), packed.numel(), out.data_ptr())
    return out


@pytest.mark.parametrize("bits", VALUES)
@pytest.mark.parametrize(("tile", "row_block"), [(1, 8), (7, 1), (256, 16), (None, 64)])
def test_products_are_those_of_float64(isa, bits, tile, row_block):
    matrix = sparse_matrix(37, 300, values=VALUES[bits])
    tile = tile or (65536 >> max(bits, 1))  # None: more columns than there are
    packed = pack_sparse(entries_of(matrix), tile=tile, row_block=row_block)
    shape = (37, 300, row_block, tile, bits, int(matrix.count_nonzero()))
    assert _native.sparse_shape(packed.data_ptr(), packed.numel()) == shape
    x = numbers(max(BATCHES), 300)
    want = x.double() @ matrix.double().T
    for batch in BATCHES:
        assert error(linear(packed, x[:batch], 37), want[:batch]) <= CLOSE, batch


@pytest.mark.parametrize("batch", [1, 6, 40])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("given", ["scale", "bias", "both"])
def test_scale_bias_and_activation_follow_the_sum(isa, batch, activation, given):
    matrix = sparse_matrix(21, 90, values=9)
    x = numbers(batch, 90)
    scale = numbers(21, seed=1) if given != "bias" else None
    bias = numbers(21, seed=2) if given != "scale" else None
    want = x.double() @ matrix.double().T
    want = want if scale is None else want * scale.double()
    want = TRUTHS[activation](want if bias is None else want + bias.double())
    packed = pack_sparse(entries_of(matrix), tile=64)
    got = linear(packed, x, 21, scale=scale, bias=bias, activation=activation)
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [(1, 1, 1.0), (1, 500, 0.3), (500, 1, 0.3), (3, 17, 1.0), (130, 33, 0.01), (64, 1030, 0.5)],
)
@pytest.mark.parametrize("values", [3, None])
def test_narrow_full_and_almost_empty_matrices(isa, rows, columns, density, values):
    matrix = sparse_matrix(rows, columns, density=density, values=values, seed=3)
    packed = pack_sparse(entries_of(matrix), tile=16)
    for batch in (1, 4, 5, 34):
        x = numbers(batch, columns)
        assert error(linear(packed, x, rows), x.double() @ matrix.double().T) <= CLOSE


@pytest.mark.parametrize("batch", [1, 5, 70])
def test_a_matrix_of_zeros_gives_the_bias(isa, batch):
    bias = numbers(19)
    packed = pack_sparse(entries_of(torch.zeros(19, 40)), tile=8)
    out = linear(packed, numbers(batch, 40), 19, bias=bias)
    assert torch.equal(out, bias.expand(batch, -1))


@pytest.mark.parametrize("batch", [1, 5])
def test_an_infinite_input_reaches_only_rows_that_have_an_entry_there(isa, batch):
    # 17 entries a row: what is left of a bunch of 16 must not multiply what follows it.
    matrix = torch.zeros(8, 40)
    matrix[:, 1:18] = 1.0
    matrix[3, 0] = 1.0
    x = torch.ones(batch, 40)
    x[:, 0] = torch.inf
    for packed in (pack_sparse(entries_of(matrix), tile=64), packed_directly(matrix, tile=64)):
        expected = torch.full((batch, 8), 17.0)
        expected[:, 3] = torch.inf
        assert torch.equal(linear(packed, x, 8), expected)


@pytest.mark.parametrize("batch", [2, 33])
@pytest.mark.parametrize("values", [16, None])
def test_threads_and_repetition_change_no_bit(isa, batch, values):
    matrix = sparse_matrix(256, 400, density=0.5, values=values)
    packed = pack_sparse(entries_of(matrix), tile=128)
    assert int(matrix.count_nonzero()) * batch > 40_000  # else a second thread is not used
    x = numbers(batch, 400)
    first = linear(packed, x, 256)
    assert torch.equal(linear(packed, x, 256), first)
    for threads in (2, 3, 7):
        assert torch.equal(linear(packed, x, 256, threads=threads), first)


@pytest.mark.parametrize("values", [16, 40, None])
@pytest.mark.parametrize("tile", [1, 5, 64])
def test_the_dense_matrix_comes_back_bit_for_bit(values, tile):
    matrix = sparse_matrix(23, 50, values=values)
    matrix[:4] = 0
    packed = pack_sparse(entries_of(matrix), tile=tile)
    assert torch.equal(unpacked(packed, (23, 50)), matrix)
    _native.sparse_check(packed.numpy())


def rows_at(packed, ids, columns, threads=1):
    ids = torch.tensor(ids)
    out = torch.full((len(ids), columns), torch.nan)
    _native.sparse_rows(
        packed.data_ptr(), packed.numel(), ids.data_ptr(), len(ids), out.data_ptr(), threads
    )
    return out


@pytest.mark.parametrize("values", [16, None])
def test_rows_of_a_table_are_those_of_the_matrix(values):
    table = sparse_matrix(90, 600, values=values)
    packed = pack_sparse(entries_of(table), tile=256, row_block=1)
    ids = [0, 89, 3, 3, 40] * 20
    for threads in (1, 2):
        assert torch.equal(rows_at(packed, ids, 600, threads), table[ids])


@pytest.mark.parametrize("bad", [-1, 90, 2**40])
def test_a_row_that_is_not_there_is_refused(bad):
    packed = pack_sparse(entries_of(sparse_matrix(90, 8)), tile=8, row_block=1)
    with pytest.raises(IndexError, match=f"embedding: index {bad}, expected 0 to 89"):
        rows_at(packed, [0, bad], 8)


def chained(links, x, rows, threads=1):
    out = torch.full((len(x), rows), torch.nan)
    _native.linear_chain(links, x.data_ptr(), len(x), out.data_ptr(), threads)
    return out


@pytest.mark.parametrize("batch", [1, 5, 40])
def test_a_chain_gives_the_bits_of_its_layers_one_by_one(isa, batch):
    shapes = [(200, 120), (60, 200), (90, 60), (7, 90)]
    matrices = [sparse_matrix(*shape, values=12, seed=i) for i, shape in enumerate(shapes)]
    packed = [pack_sparse(entries_of(m), tile=64) for m in matrices]
    biases = [numbers(len(m)) for m in matrices]
    x = out = numbers(batch, 120)
    for p, m, bias in zip(packed, matrices, biases, strict=True):
        out = linear(p, out, len(m), bias=bias, activation="relu")
    links = [
        (False, p.data_ptr(), p.numel(), 0, b.data_ptr(), ACTIVATIONS.index("relu"))
        for p, b in zip(packed, biases, strict=True)
    ]
    for threads in (1, 2):
        assert torch.equal(chained(links, x, 7, threads), out)


def test_a_chain_whose_layers_do_not_fit_is_refused():
    one, two = (pack_sparse(entries_of(torch.ones(3, 4)), tile=4) for _ in range(2))
    links = [(False, p.data_ptr(), p.numel(), 0, 0, 0) for p in (one, two)]
    with pytest.raises(ValueError, match="4 columns behind one of 3 rows"):
        chained(links, torch.zeros(1, 4), 3)


def pack(positions, codes, book, *, rows=4, columns=4, row_block=8, tile=4, bits=4, size=None):
    positions = np.array(positions, np.int64)
    if size is None:
        size = _native.sparse_bytes(rows, columns, row_block, tile, bits, len(positions))
    out = np.zeros(size, np.uint8)
    codes, book = np.array(codes, np.uint16), np.array(book, np.float32)
    direct = np.zeros(0, np.float32)
    _native.sparse_pack(rows, columns, row_block, tile, bits, positions, codes, book, direct, out)
    return out


@pytest.mark.parametrize(
    ("positions", "codes", "book", "message"),
    [
        ([3, 3], [0, 0], [1.0], "position 3 after 3"),
        ([3, 2], [0, 0], [1.0], "position 2 after 3"),
        ([-1], [0], [1.0], "position -1 after -1"),
        ([16], [0], [1.0], "position 16 after -1"),
        ([1], [1], [1.0], "code 1, but the codebook has 1"),
        ([1], [0, 0], [1.0], "do not agree in number"),
        ([1], [0], [], "a codebook of 0 for codes of 4 bits"),
        ([1], [0], np.ones(17), "a codebook of 17 for codes of 4 bits"),
    ],
)
def test_entries_that_are_no_matrix_are_refused(positions, codes, book, message):
    with pytest.raises(ValueError, match=message):
        pack(positions, codes, book)


def test_storage_of_another_size_is_refused():
    size = _native.sparse_bytes(4, 4, 8, 4, 4, 1)
    with pytest.raises(ValueError, match=f"{size + 1} bytes, expected {size}"):
        pack([1], [0], [1.0], size=size + 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 4, 8, 4, 4, 0), "0 x 4, expected sides of 1"),
        ((4, 2**31, 8, 4, 4, 0), "4 x 2147483648"),
        ((4, 4, 0, 4, 4, 0), "blocks of 0 rows"),
        ((4, 4, 4097, 4, 4, 0), "blocks of 4097 rows"),
        ((4, 4, 8, 0, 4, 0), "tiles of 0 columns"),
        ((4, 4, 8, 32769, 0, 0), "tiles of 32769 columns"),
        ((4, 4, 8, 4097, 4, 0), "tiles of 4097 columns do not fit 16 bits beside codes of 4"),
        ((4, 4, 8, 4, 3, 0), "codes of 3 bits"),
        ((4, 4, 8, 4, 9, 0), "codes of 9 bits"),
        ((4, 4, 8, 4, 4, 17), "17 entries in 16 places"),
    ],
)
def test_shapes_that_cannot_be_laid_out_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        _native.sparse_bytes(*shape)


def test_bytes_that_hold_no_matrix_are_refused():
    packed = pack_sparse(entries_of(sparse_matrix(20, 30, values=5)), tile=8).numpy()
    for size in (0, 1, 63, 64, 100, len(packed) - 1):
        with pytest.raises(ValueError, match=f"sparse matrix: {size} bytes"):
            _native.sparse_check(packed[:size].copy())
    with pytest.raises(ValueError, match="the bytes hold none"):
        _native.sparse_check(np.zeros(len(packed), np.uint8))
    with pytest.raises(ValueError, match="the bytes hold none"):
        linear(torch.zeros(256, dtype=torch.uint8), torch.zeros(1, 30), 20)


def test_a_damaged_head_never_passes_for_another_matrix_of_other_bytes():
    packed = pack_sparse(entries_of(sparse_matrix(20, 30, values=5)), tile=8).numpy()
    for byte in range(56):
        for bit in range(8):
            damaged = packed.copy()
            damaged[byte] ^= 1 << bit
            try:
                shape = _native.sparse_shape(damaged.ctypes.data, len(damaged))
            except ValueError:
                continue
            assert _native.sparse_bytes(*shape) == len(packed)


def parts(packed):
    """Where starts, counts and words begin: each at a multiple of 64 bytes, behind the head."""
    rows, _, row_block, *_ = shape = _native.sparse_shape(packed.ctypes.data, len(packed))
    blocks, tiles = -(-rows // row_block), -(-shape[1] // shape[3])
    counts = 64 + -(-(blocks + 1) * 8 // 64) * 64
    return 64, counts, counts + -(-blocks * tiles * row_block * 2 // 64) * 64


@pytest.mark.parametrize(
    ("part", "kind", "value", "message"),
    [
        (0, np.uint64, 1, "block 0 begins at another entry"),
        (1, np.uint16, 31, "a count of 31 entries"),
        (1, np.uint16, 29, "block 1 begins at another entry than its counts say"),
        (2, np.uint16, 0xFFFF, "entry 0 lies outside its tile"),
    ],
)
def test_counts_starts_and_columns_that_lie_are_found(part, kind, value, message):
    packed = pack_sparse(entries_of(torch.ones(20, 30)), tile=32, row_block=8).numpy()
    _native.sparse_check(packed)
    at = parts(packed)[part]
    packed[at : at + np.dtype(kind).itemsize].view(kind)[0] = value
    with pytest.raises(ValueError, match=message):
        _native.sparse_check(packed)


def test_a_large_batch_is_taken_in_parts_with_the_same_bits(isa):
    # 70,000 columns of 64 samples are more than the samples that are turned at once.
    matrix = sparse_matrix(3, 70_000, density=0.01, values=15)
    packed = pack_sparse(entries_of(matrix), tile=4096)
    x = numbers(64 + 64 + 5, 70_000)
    whole = linear(packed, x, 3)
    assert error(whole, x.double() @ matrix.double().T) <= 1e-5
    assert torch.equal(torch.cat([linear(packed, part, 3) for part in x.split(64)]), whole)

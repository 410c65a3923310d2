import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import FormatError, huffman_decode, huffman_encode, huffman_lengths

COUNTS = st.lists(st.integers(0, 1000) | st.integers(0, 2**40), min_size=1, max_size=40)


def lengths_of(counts, max_length=15):
    return huffman_lengths(np.array(counts, np.uint64), max_length).tolist()


def cost(counts, lengths):
    return sum(c * length for c, length in zip(counts, lengths, strict=True))


def least_cost(counts, max_length):
    """Over all lengths of complete prefix codes: by Kraft each such list is a code."""
    used = [c for c in counts if c]
    return min(
        cost(used, lengths)
        for lengths in itertools.product(range(1, max_length + 1), repeat=len(used))
        if sum(2.0**-length for length in lengths) <= 1
    )


@settings(deadline=None)
@given(counts=COUNTS)
def test_lengths_are_a_complete_code_near_the_entropy(counts):
    lengths = lengths_of(counts)
    used = [c for c in counts if c]
    assert [length > 0 for length in lengths] == [c > 0 for c in counts]
    if len(used) < 2:
        assert sum(lengths) == len(used)
        return
    assert sum(2.0**-length for length in lengths if length) == 1
    total = sum(used)
    entropy = -sum(c / total * math.log2(c / total) for c in used)
    # The bound of Huffman codes without a limit holds where the limit does not bind.
    unlimited = lengths_of(counts, 32)
    assert entropy - 1e-9 <= cost(counts, unlimited) / total < entropy + 1
    if max(unlimited) <= 15:
        assert cost(counts, lengths) == cost(counts, unlimited)
    assert cost(counts, lengths) <= total * math.ceil(math.log2(len(used)))


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 60), min_size=2, max_size=6), limit=st.integers(3, 5))
def test_lengths_are_optimal_under_the_limit(counts, limit):
    if sum(c > 0 for c in counts) < 2:
        return
    lengths = lengths_of(counts, limit)
    assert max(lengths) <= limit
    assert cost(counts, lengths) == least_cost(counts, limit)


def test_the_limit_binds_for_fibonacci_counts():
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    assert max(lengths_of(counts, 32)) == 29
    assert max(lengths_of(counts)) == 15
    assert sum(2.0**-length for length in lengths_of(counts)) == 1


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 300), skew=st.floats(0.2, 6))
def test_symbols_come_back(data, size, skew):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    symbols = (rng.random(data.draw(st.integers(0, 400))) ** skew * size).astype(np.uint16)
    counts = np.bincount(symbols, minlength=size).astype(np.uint64)
    lengths = huffman_lengths(counts)
    stream = huffman_encode(symbols, lengths)
    bits = 0 if len(np.unique(symbols)) < 2 else int(lengths[symbols].sum())
    assert len(stream) == (bits + 7) // 8
    assert huffman_decode(stream, lengths, len(symbols)).tolist() == symbols.tolist()


def test_codes_are_those_of_deflate():
    # RFC 1951, 3.2.2: lengths 3,3,3,3,3,2,4,4 give F=00, A..E=010..110, G=1110, H=1111.
    lengths = np.array([3, 3, 3, 3, 3, 2, 4, 4], np.uint8)
    codes = ["010", "011", "100", "101", "110", "00", "1110", "1111"]
    for symbol, code in enumerate(codes):
        stream = huffman_encode(np.array([symbol], np.uint16), lengths)
        assert stream.tolist() == [int(code[::-1], 2)]


def test_a_large_alphabet_comes_back():
    symbols = np.arange(32768, dtype=np.uint16)
    lengths = huffman_lengths(np.ones(32768, np.uint64))
    assert set(lengths.tolist()) == {15}
    assert (huffman_decode(huffman_encode(symbols, lengths), lengths, 32768) == symbols).all()


def test_more_symbols_than_codes_are_refused():
    with pytest.raises(ValueError, match="32769 symbols do not fit into codes of 15 bits"):
        huffman_lengths(np.ones(32769, np.uint64))
    with pytest.raises(ValueError, match="max_length 33, expected 1 to 32"):
        huffman_lengths(np.ones(2, np.uint64), 33)
    with pytest.raises(ValueError, match=r"counts sum to 2\^56 or more"):
        huffman_lengths(np.array([2**55, 2**55], np.uint64))


def test_a_symbol_without_a_code_is_refused():
    with pytest.raises(ValueError, match="symbol 2 has no code"):
        huffman_encode(np.array([2], np.uint16), np.array([1, 1, 0], np.uint8))
    with pytest.raises(ValueError, match="symbol 9 has no code"):
        huffman_encode(np.array([9], np.uint16), np.array([1, 1], np.uint8))


@pytest.mark.parametrize(
    ("lengths", "data", "count", "match"),
    [
        ([1, 1, 1], b"\0", 1, "over-subscribed"),
        ([1, 2], b"\0", 1, "incomplete"),
        ([16, 1], b"\0", 1, "code length 16, expected at most 15"),
        ([0, 2], b"", 1, "the only symbol has length 2, expected 1"),
        ([0, 0], b"", 1, "has no symbols"),
        ([0, 1], b"\0", 1, "stream of 1 bytes cannot hold 1 symbols"),
        ([1, 1], b"\0", 9, "stream of 1 bytes cannot hold 9 symbols"),
        ([1, 1], b"\0", 2**64 - 1, "cannot hold 18446744073709551615 symbols"),
        ([1, 2, 2], b"\xff", 8, "ends at symbol 4 of 8"),
        ([1, 1], b"\0\0", 8, "bytes after its last symbol"),
        ([1, 1], bytes(40), 300, "bytes after its last symbol"),
        ([1, 1], b"\x80", 7, "padding after the Huffman stream is not zero"),
    ],
)
def test_what_is_no_such_stream_is_refused(lengths, data, count, match):
    with pytest.raises(FormatError, match=match):
        huffman_decode(data, np.array(lengths, np.uint8), count)


@settings(deadline=None, max_examples=300)
@given(
    lengths=st.lists(st.integers(0, 16), max_size=12),
    data=st.binary(max_size=60),
    count=st.integers(0, 500),
)
def test_random_bytes_decode_to_what_encodes_to_them_or_are_refused(lengths, data, count):
    table = np.array(lengths, np.uint8)
    try:
        symbols = huffman_decode(data, table, count)
    except FormatError:
        return
    assert len(symbols) == count
    assert huffman_encode(symbols, table).tobytes() == data


@settings(deadline=None, max_examples=200)
@given(data=st.binary(min_size=1, max_size=60), flip=st.integers(0, 479))
def test_every_stream_is_the_only_one_of_its_symbols(data, flip):
    symbols = np.frombuffer(data, np.uint8).astype(np.uint16)
    lengths = huffman_lengths(np.bincount(symbols, minlength=256).astype(np.uint64))
    stream = bytearray(huffman_encode(symbols, lengths).tobytes())
    if len(stream) == 0:
        return
    stream[flip // 8 % len(stream)] ^= 1 << flip % 8
    try:
        found = huffman_decode(bytes(stream), lengths, len(symbols))
    except FormatError:
        return
    assert found.tolist() != symbols.tolist()

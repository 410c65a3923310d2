import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import FormatError, rans_decode, rans_encode, rans_estimate


def entropy_bytes(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def skewed(seed, count, alphabet, skew):
    rng = np.random.default_rng(seed)
    return (rng.random(count) ** skew * alphabet).astype(np.uint16)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 600) | st.sampled_from([65535, 65536, 65537, 65543, 70000]),
    alphabet=st.integers(1, 1024),
    skew=st.floats(0.1, 30),
)
def test_symbols_come_back(seed, count, alphabet, skew):
    symbols = skewed(seed, count, alphabet, skew)
    stream = rans_encode(symbols, alphabet)
    assert rans_decode(stream, alphabet, count).tolist() == symbols.tolist()
    assert rans_decode(stream.tobytes(), alphabet, count).tolist() == symbols.tolist()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), alphabet=st.integers(2, 256), skew=st.floats(0.3, 8))
def test_long_streams_are_within_half_a_percent_of_the_entropy(seed, alphabet, skew):
    symbols = skewed(seed, 100_000, alphabet, skew)
    stream = rans_encode(symbols, alphabet)
    table = alphabet // 2 + 2 * alphabet + 8 * 4 + 10
    assert len(stream) <= 1.005 * entropy_bytes(symbols) + table
    assert len(stream) >= entropy_bytes(symbols)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 600) | st.sampled_from([65536, 70000]),
    alphabet=st.integers(1, 1024),
    skew=st.floats(0.1, 30),
)
def test_the_estimate_is_near(seed, count, alphabet, skew):
    symbols = skewed(seed, count, alphabet, skew)
    counts = np.bincount(symbols, minlength=alphabet).astype(np.uint64)
    found, true = rans_estimate(counts), len(rans_encode(symbols, alphabet))
    assert abs(found - true) <= 24 + true // 500


def test_no_symbols_take_no_bytes():
    assert len(rans_encode(np.zeros(0, np.uint16), 5)) == 0
    assert len(rans_decode(b"", 5, 0)) == 0
    with pytest.raises(FormatError):
        rans_decode(b"\0", 5, 0)
    with pytest.raises(FormatError):
        rans_decode(b"", 5, 1)


def test_one_symbol_alone_takes_a_table_and_a_state():
    stream = rans_encode(np.full(50_000, 3, np.uint16), 5)
    assert len(stream) <= 1 + 3 + 2 + 4
    assert set(rans_decode(stream, 5, 50_000).tolist()) == {3}


def test_a_symbol_outside_of_the_alphabet_is_refused():
    with pytest.raises(ValueError, match="5"):
        rans_encode(np.array([1, 5], np.uint16), 5)
    with pytest.raises(ValueError, match="1025"):
        rans_encode(np.array([1], np.uint16), 1025)


@pytest.mark.parametrize("alphabet", [1025, 65536, 2**63])
def test_an_alphabet_that_is_too_large_is_refused(alphabet):
    stream = rans_encode(np.arange(9, dtype=np.uint16), 9)
    with pytest.raises((FormatError, ValueError)):
        rans_decode(stream, alphabet, 9)


@pytest.mark.parametrize("count", [300, 70_000])
def test_a_stream_that_is_cut_or_longer_is_refused(count):
    stream = rans_encode(skewed(0, count, 40, 2), 40).tobytes()
    for end in [*range(60), *range(len(stream) - 20, len(stream))]:
        with pytest.raises(FormatError):
            rans_decode(stream[:end], 40, count)
    for more in (b"\0", b"\0\0", b"\1\2"):
        with pytest.raises(FormatError):
            rans_decode(stream + more, 40, count)


@settings(deadline=None, max_examples=500)
@given(
    data=st.binary(max_size=80),
    alphabet=st.integers(0, 40) | st.integers(0, 1030),
    count=st.integers(0, 300),
)
def test_random_bytes_are_refused_or_symbols_of_the_alphabet(data, alphabet, count):
    try:
        symbols = rans_decode(data, alphabet, count)
    except (FormatError, ValueError):
        return
    assert len(symbols) == count
    assert count == 0 or symbols.max() < alphabet


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(2, 300) | st.just(65_600),
    flip=st.integers(0, 2**20),
)
def test_a_bit_that_flips_is_refused_or_gives_other_symbols(seed, count, flip):
    symbols = skewed(seed, count, 30, 3)
    stream = bytearray(rans_encode(symbols, 30).tobytes())
    stream[flip // 8 % len(stream)] ^= 1 << flip % 8
    try:
        found = rans_decode(bytes(stream), 30, count)
    except FormatError:
        return
    assert len(found) == count
    assert found.max() < 30

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import FormatError, codes_decode, codes_encode, map_decode, map_encode

LAGS = st.sampled_from([0, 1, 2, 3, 5, 9, 28, 100, 2**31 - 1])


def map_of(stream, rows, columns, kernel, lag):
    places = np.full(rows * columns, 7, np.uint8)
    map_decode(stream, rows, columns, kernel, lag, places)
    return places


@st.composite
def lattices(draw):
    """Rows, columns, kernel and a map."""
    kernel = draw(st.sampled_from([1, 1, 2, 3, 9, 25, 70]))
    columns = draw(st.integers(0, 70)) if kernel == 1 else kernel * draw(st.integers(0, 3))
    rows = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    places = rng.random((rows, columns)) < density
    if draw(st.booleans()):
        places &= rng.random(columns) < 0.5  # whole columns are empty
    return rows, columns, kernel, places.astype(np.uint8).reshape(-1)


@st.composite
def codes(draw, count):
    """An alphabet and so many codes below it, some of them skewed."""
    alphabet = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 31, 33, 256, 1000, 1024]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    skew = draw(st.sampled_from([0.5, 1, 4]))
    return alphabet, (rng.random(count) ** skew * alphabet).astype(np.uint16)


@settings(deadline=None, max_examples=300)
@given(lattice=lattices(), lag=LAGS)
def test_maps_come_back(lattice, lag):
    rows, columns, kernel, places = lattice
    stream = map_encode(places, rows, columns, kernel, lag)
    assert map_of(stream, rows, columns, kernel, lag).tolist() == places.tolist()
    assert len(stream) == 0 or stream[-1] != 0


@settings(deadline=None, max_examples=300)
@given(lattice=lattices(), lag=LAGS, data=st.data())
def test_codes_come_back(lattice, lag, data):
    rows, columns, _, places = lattice
    count = int(places.sum())
    alphabet, values = data.draw(codes(count))
    stream = codes_encode(values, alphabet, places, rows, columns, lag)
    found = codes_decode(stream, alphabet, places, rows, columns, lag, count)
    assert found.tolist() == values.tolist()
    assert len(stream) == 0 or stream[-1] != 0


def test_a_sparse_map_takes_little_more_than_its_entropy():
    places = (np.random.default_rng(0).random((300, 784)) < 0.1).astype(np.uint8).reshape(-1)
    p = places.mean()
    entropy = -len(places) * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    assert entropy < len(map_encode(places, 300, 784, 1, 0)) < 1.02 * entropy


def test_structure_is_found():
    rng = np.random.default_rng(0)
    rows, columns = 100, 280
    places = np.repeat(rng.random((rows, columns // 28, 1)) < 0.3, 28, axis=2)
    places &= rng.random(columns // 28 * 28).reshape(1, -1, 28) < 0.5
    flat = places.astype(np.uint8).reshape(-1)
    p = flat.mean()
    entropy = -len(flat) * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    assert len(map_encode(flat, rows, columns, 1, 0)) < 0.7 * entropy


def test_a_code_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="3"):
        codes_encode(np.array([3], np.uint16), 3, np.ones(1, np.uint8), 1, 1, 0)


def test_sizes_that_do_not_fit_are_refused():
    ones = np.ones(6, np.uint8)
    with pytest.raises(ValueError, match="a map of 6 places"):
        map_encode(ones, 2, 4, 1, 0)
    with pytest.raises(ValueError, match="a map of 6 places"):
        map_decode(b"", 2, 4, 1, 0, np.empty(6, np.uint8))
    with pytest.raises(ValueError, match="a map of 0 places"):
        map_encode(np.ones(0, np.uint8), 2**32, 2**32, 1, 0)
    with pytest.raises(ValueError, match="5 codes for 6 places"):
        codes_encode(np.zeros(5, np.uint16), 3, ones, 2, 3, 0)
    for count in (5, 7, 2**62):
        with pytest.raises((FormatError, ValueError), match="codes"):
            codes_decode(b"\1", 3, ones, 2, 3, 0, count)


@settings(deadline=None, max_examples=300)
@given(lattice=lattices(), lag=LAGS, data=st.binary(max_size=40))
def test_random_bytes_are_refused_or_a_map(lattice, lag, data):
    rows, columns, kernel, _ = lattice
    try:
        places = map_of(data, rows, columns, kernel, lag)
    except FormatError:
        return
    stream = map_encode(places, rows, columns, kernel, lag)
    assert map_of(stream, rows, columns, kernel, lag).tolist() == places.tolist()


@settings(deadline=None, max_examples=300)
@given(lattice=lattices(), lag=LAGS, data=st.binary(max_size=40), alphabet=st.integers(1, 1024))
def test_random_bytes_are_refused_or_codes_of_the_alphabet(lattice, lag, data, alphabet):
    rows, columns, _, places = lattice
    try:
        found = codes_decode(data, alphabet, places, rows, columns, lag, int(places.sum()))
    except FormatError:
        return
    assert len(found) == places.sum()
    assert len(found) == 0 or found.max() < alphabet


@settings(deadline=None, max_examples=100)
@given(lattice=lattices(), lag=LAGS)
def test_a_stream_that_is_cut_is_refused_or_another(lattice, lag):
    rows, columns, kernel, places = lattice
    stream = map_encode(places, rows, columns, kernel, lag).tobytes()
    with pytest.raises(FormatError):
        map_of(stream + b"\0", rows, columns, kernel, lag)
    with pytest.raises(FormatError):
        map_of(stream + bytes(9999) + b"\1", rows, columns, kernel, lag)
    if not stream:
        return
    try:
        found = map_of(stream[:-1], rows, columns, kernel, lag)
    except FormatError:
        return
    assert found.tolist() != places.tolist()

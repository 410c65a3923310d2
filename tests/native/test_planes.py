import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import FormatError, planes_decode, planes_encode

SIZES = st.sampled_from([1, 2, 4, 8])


def decoded(stream, lengths, rotate, octets):
    words = np.empty(octets, np.uint8)
    planes_decode(stream, lengths, rotate, words)
    return words


@st.composite
def words(draw, size):
    """The bytes of words: noise, numbers near each other, or floats."""
    count = draw(st.integers(0, 500) | st.sampled_from([65535, 65536, 66000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "near", "floats", "equal"]))
    if kind == "floats" and size > 1:
        values = rng.standard_normal(count).astype(f"f{size}")
    elif kind == "near":
        values = rng.integers(0, 9, count).astype(f"u{size}")
    elif kind == "equal":
        values = np.full(count, 77, f"u{size}")
    else:
        values = rng.integers(0, 256, count * size, np.uint8)
    return np.ascontiguousarray(values).view(np.uint8)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), size=SIZES, rotate=st.booleans())
def test_words_come_back(data, size, rotate):
    octets = data.draw(words(size))
    stream, lengths = planes_encode(octets, size, rotate)
    assert len(lengths) == size
    count = len(octets) // size
    assert len(stream) == sum(int(length) or count for length in lengths)
    assert len(stream) <= len(octets)
    assert (decoded(stream, lengths, rotate, len(octets)) == octets).all()
    assert (decoded(stream.tobytes(), lengths, rotate, len(octets)) == octets).all()


def test_planes_stand_highest_first_and_rotation_brings_the_sign_last():
    octets = np.array([0x80000001, 0x12345678, 0xFEDCBA98], np.uint32).view(np.uint8)
    stream, lengths = planes_encode(octets, 4, False)
    assert lengths.tolist() == [0] * 4
    assert stream.tobytes().hex() == "8012fe" + "0034dc" + "0056ba" + "017898"
    stream, lengths = planes_encode(octets, 4, True)  # 00000003 2468acf0 fdb97531
    assert lengths.tolist() == [0] * 4
    assert stream.tobytes().hex() == "0024fd" + "0068b9" + "00ac75" + "03f031"


def test_exponents_of_floats_shrink():
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    plain, _ = planes_encode(values.view(np.uint8), 4, False)
    turned, lengths = planes_encode(values.view(np.uint8), 4, True)
    assert len(turned) < len(plain) < 0.95 * values.nbytes
    assert [length > 0 for length in lengths] == [True, False, False, False]


@pytest.mark.parametrize(
    ("lengths", "data"),
    [
        ([0, 0], bytes(5)),
        ([0, 0], bytes(7)),
        ([5, 0], bytes(8)),
        ([2**64 - 1, 4], bytes(6)),
        ([2**64 - 3, 6], bytes(6)),
        ([0, 2**63], bytes(6)),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, data):
    with pytest.raises(FormatError):
        decoded(data, np.array(lengths, np.uint64), False, 6)


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary(max_size=60),
    lengths=st.lists(st.integers(0, 60) | st.integers(0, 2**64 - 1), min_size=8, max_size=8),
    size=SIZES,
    count=st.integers(0, 20),
    rotate=st.booleans(),
)
def test_random_bytes_are_refused_or_words(data, lengths, size, count, rotate):
    try:
        octets = decoded(data, np.array(lengths[:size], np.uint64), rotate, count * size)
    except FormatError:
        return
    stream, lengths = planes_encode(octets, size, rotate)
    assert (decoded(stream, lengths, rotate, len(octets)) == octets).all()


@settings(deadline=None, max_examples=200)
@given(data=st.data(), size=SIZES, rotate=st.booleans(), flip=st.integers(0, 2**20))
def test_a_bit_that_flips_is_refused_or_gives_other_words(data, size, rotate, flip):
    octets = data.draw(words(size))
    stream, lengths = planes_encode(octets, size, rotate)
    if len(stream) == 0:
        return
    damaged = bytearray(stream.tobytes())
    damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
    try:
        found = decoded(bytes(damaged), lengths, rotate, len(octets))
    except FormatError:
        return
    assert len(found) == len(octets)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import FormatError, pack_bits, unpack_bits


@settings(deadline=None)
@given(data=st.data(), width=st.integers(1, 16))
def test_codes_come_back_and_lie_low_bit_first(data, width):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = pack_bits(np.array(values, np.uint16), width)
    number = sum(value << (i * width) for i, value in enumerate(values))
    assert packed.tobytes() == number.to_bytes((len(values) * width + 7) // 8, "little")
    assert unpack_bits(packed, width, len(values)).tolist() == values
    assert unpack_bits(packed.tobytes(), width, len(values)).tolist() == values


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="code 8 does not fit into 3 bits"):
        pack_bits(np.array([7, 8], np.uint16), 3)


@pytest.mark.parametrize(
    ("data", "width", "count", "match"),
    [
        (b"abc", 8, 4, "codes take 3 bytes, expected 4"),
        (b"abc", 8, 2, "codes take 3 bytes, expected 2"),
        (b"\x80", 7, 1, "padding after the codes is not zero"),
        (b"a", 0, 1, "code width 0, expected 1 to 16"),
        (b"a", 17, 1, "code width 17, expected 1 to 16"),
        (b"a", 16, 2**64 - 1, "code count 18446744073709551615 overflows"),
    ],
)
def test_bytes_that_are_not_these_codes_are_refused(data, width, count, match):
    with pytest.raises(FormatError, match=match):
        unpack_bits(data, width, count)


@pytest.mark.parametrize("codes", [np.zeros(3, np.int64), np.zeros((2, 2), np.uint16), [1, 2]])
def test_other_arrays_are_not_converted_silently(codes):
    with pytest.raises(TypeError):
        pack_bits(codes, 4)


def test_a_strided_array_is_not_read_as_if_it_were_not():
    with pytest.raises(TypeError):
        pack_bits(np.arange(10, dtype=np.uint16)[::2], 4)

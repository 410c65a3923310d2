import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from state_dicts import tensors

from tersor.core.errors import FormatError
from tersor.store.delta import difference, ordered_as_float, restore
from tersor.store.words import DTYPES, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

ALL_16 = np.arange(1 << 16, dtype=np.uint16)
INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOAT = {1: torch.float8_e5m2, 2: torch.bfloat16, 4: torch.float32, 8: torch.complex128}


def by_hand(word, base, bits, floats):
    """The definition in Python's whole numbers."""
    ones, sign = (1 << bits) - 1, 1 << (bits - 1)

    def order(x):
        return (x ^ ones if x & sign else x | sign) if floats else x

    d = (order(word) - order(base)) & ones
    return ((d << 1) & ones) ^ (ones if d & sign else 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int16])
@pytest.mark.parametrize("base", [0, 1, 0x3F80, 0x7FFF, 0x8000, 0x8001, 0xBEEF, 0xFFFF])
def test_all_words_of_two_bytes_come_back_and_are_the_definition(dtype, base):
    bases = np.full_like(ALL_16, base)
    z = difference(ALL_16, bases, dtype)
    assert np.array_equal(np.sort(z), ALL_16)  # a bijection
    assert np.array_equal(restore(z, bases, dtype), ALL_16)
    floats = dtype.is_floating_point
    assert z.tolist() == [by_hand(word, base, 16, floats) for word in range(1 << 16)]


@given(
    size=st.sampled_from([1, 2, 4, 8]),
    floats=st.booleans(),
    count=st.sampled_from([0, 1, 7, 300]),
    seed=st.integers(0, 2**32),
)
@example(size=4, floats=True, count=200_000, seed=0)  # several blocks, the last one not full
@example(size=1, floats=False, count=600_001, seed=1)
def test_words_of_every_size_come_back_and_are_the_definition(size, floats, count, seed):
    rng = np.random.default_rng(seed)
    words, base = (np.frombuffer(rng.bytes(count * size), f"u{size}").copy() for _ in range(2))
    before = words.copy(), base.copy()
    dtype = FLOAT[size] if floats else INTEGER[size]
    z = difference(words, base, dtype)
    assert z.dtype == words.dtype
    assert np.array_equal(restore(z, base, dtype), words)
    assert np.array_equal(words, before[0])
    assert np.array_equal(base, before[1])
    for place in rng.integers(0, count, min(count, 50)):
        assert z[place] == by_hand(int(words[place]), int(base[place]), 8 * size, floats)


@given(tensor=tensors())
def test_every_dtype_comes_back_and_nothing_differs_from_itself(tensor):
    words = to_words(tensor)
    assert not difference(words, words, tensor.dtype).any()
    base = np.roll(words, 1)
    assert np.array_equal(restore(difference(words, base, tensor.dtype), base, tensor.dtype), words)


def test_a_step_up_is_2_and_a_step_down_1_also_through_zero():
    values = torch.tensor([-1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 2.0**100])
    up, down = (torch.nextafter(values, torch.tensor(end)) for end in (torch.inf, -torch.inf))
    words = to_words(values)
    z_up = difference(to_words(up), words, torch.float32)
    z_down = difference(to_words(down), words, torch.float32)
    # -1e-45 goes up to -0.0, and the two zeros are one step apart, which nextafter leaves out.
    assert z_up.tolist() == [2, 2, 4, 2, 2, 2, 2]
    assert z_down.tolist() == [1, 1, 1, 3, 1, 1, 1]


def test_a_small_change_is_a_small_number_whatever_its_sign():
    weights = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    tuned = weights * 1.0001
    z = difference(to_words(tuned), to_words(weights), torch.float32)
    assert z.max() < 4 * 2**23 * 0.0001 * 2
    assert 0.4 < np.mean(z % 2) < 0.6  # the negative ones went down, the positive ones up


def test_scales_without_a_sign_and_pairs_of_numbers_are_no_ordered_floats():
    floats = {name for name, dtype in DTYPES.items() if ordered_as_float(dtype)}
    assert floats == {
        *("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    }
    scales = to_words(torch.tensor([0x7F, 0x80], dtype=torch.uint8))  # 2^0 and 2^1
    assert difference(scales[1:], scales[:1], torch.float8_e8m0fnu).tolist() == [2]


@pytest.mark.parametrize(
    ("base", "match"),
    [
        (np.zeros(3, np.uint32), "2 words of 4 bytes, but 3 of 4 bytes in the base"),
        (np.zeros(2, np.uint16), "2 words of 4 bytes, but 2 of 2 bytes in the base"),
    ],
)
def test_a_base_of_another_kind_is_refused(base, match):
    words = np.zeros(2, np.uint32)
    with pytest.raises(FormatError, match=match):
        difference(words, base, torch.float32)
    with pytest.raises(FormatError, match=match):
        restore(words, base, torch.float32)

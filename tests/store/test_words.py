import pytest
import torch
from hypothesis import given, settings
from state_dicts import bits_of, tensors
from torch import nn

from tersor.core.errors import ConfigError
from tersor.store.words import DTYPE_NAMES, from_words, grid, require_plain, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def test_every_dtype_of_torch_is_known_or_quantized():
    of_torch = {str(d)[6:] for d in vars(torch).values() if isinstance(d, torch.dtype)}
    quantized = {"qint8", "quint8", "qint32", "quint4x2", "quint2x4"}
    assert of_torch - quantized <= set(DTYPE_NAMES)


@settings(deadline=None)
@given(tensor=tensors())
def test_words_are_the_bits(tensor):
    words = to_words(tensor)
    lattice = grid(tensor.dtype, tuple(tensor.shape))
    assert words.astype(f"<u{lattice.word_size}").tobytes() == bits_of(tensor)
    assert len(words) == lattice.count
    back = from_words(words.copy(), tensor.dtype, tuple(tensor.shape))
    assert (back.dtype, back.shape, bits_of(back)) == (tensor.dtype, tensor.shape, bits_of(tensor))


def test_only_plus_zero_is_a_zero_word():
    tensor = torch.tensor([0.0, -0.0, float("nan"), 1e-45])
    assert (to_words(tensor) != 0).tolist() == [False, True, True, True]


def test_parameters_and_buffers_are_plain():
    for value in (nn.Parameter(torch.ones(2)), nn.Buffer(torch.ones(2)), torch.ones(2)):
        assert not require_plain(value).requires_grad


def test_a_number_is_no_tensor():
    with pytest.raises(ConfigError, match="a float, expected a tensor"):
        require_plain(1.0)

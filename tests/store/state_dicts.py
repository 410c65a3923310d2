"""State dicts that reach the corners, and their comparison by bits."""

import hypothesis.strategies as st
import numpy as np
import torch

from tersor.store.words import DTYPES

SHAPES = st.one_of(
    st.sampled_from([(), (0,), (1,), (0, 3), (3, 0, 2), (1, 1), (7,), (5, 6), (6, 5), (2, 3, 4)]),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
LARGE_SHAPES = st.sampled_from([(900,), (30, 40), (1, 500), (500, 1), (9, 8, 3, 3)])


def of_bits(data, dtype, shape):
    """The tensor whose elements have these bytes."""
    flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.tensor([]).byte()
    return flat.view(dtype).reshape(shape)


def bits_of(tensor):
    """The bytes of the elements in row-major order."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    return tensor.view(integers).contiguous().numpy().tobytes()


def assert_same(found, expected):
    """Same names in the same order, same dtypes, shapes and bits."""
    assert list(found) == list(expected)
    for name in expected:
        a, b = found[name], expected[name]
        assert (a.dtype, a.shape, bits_of(a)) == (b.dtype, b.shape, bits_of(b)), name


@st.composite
def tensors(draw, shapes=SHAPES):
    """Any tensor: random bits, few distinct words, sparse, constant; in any layout."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, size = int(np.prod(shape)), dtype.itemsize
    words = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if draw(st.booleans()):  # few distinct words
        book = words[: draw(st.sampled_from([1, 2, 3, 17]))]
        words = book[rng.integers(0, max(len(book), 1), count)] if count else words
    density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]))
    words = np.where(rng.random((count, 1)) < density, words, np.uint8(0))
    tensor = of_bits(bytearray(words.tobytes()), dtype, shape)
    return draw(st.sampled_from([_as_is, _transposed, _strided, _conjugated, _negated]))(tensor)


@st.composite
def state_dicts(draw, shapes=SHAPES):
    """Tensors by any names; some tied, some equal, some views of another."""
    names = draw(st.lists(st.text(max_size=12), unique=True, max_size=4))
    state = {}
    for name in names:
        kinds = ["new", "tied", "equal"] if state else ["new"]
        kind = draw(st.sampled_from(kinds))
        old = state[draw(st.sampled_from(sorted(state)))] if state else None
        if kind == "new":
            state[name] = draw(tensors(shapes))
        elif kind == "tied":
            state[name] = old
        else:
            state[name] = of_bits(bytearray(bits_of(old)), old.dtype, old.shape)
    return state


def _as_is(tensor):
    return tensor


def _transposed(tensor):
    return tensor.T if tensor.ndim == 2 else tensor


def _strided(tensor):
    return tensor[::2] if tensor.ndim else tensor


def _conjugated(tensor):
    return tensor.conj() if tensor.dtype.is_complex else tensor


def _negated(tensor):
    # The imaginary part of a conjugate is a view with its sign still to be flipped.
    return tensor.conj().imag if tensor.dtype in (torch.complex64, torch.complex128) else tensor


def sparse_codebook(shape, *, density, size, seed=0, dtype=torch.float32):
    """What pruning and weight sharing leave: zeros, and `size` distinct values at random."""
    rng = np.random.default_rng(seed)
    book = rng.standard_normal(size) + 0.01
    values = book[rng.integers(0, size, shape)]
    return torch.tensor(np.where(rng.random(shape) < density, values, 0.0)).to(dtype)

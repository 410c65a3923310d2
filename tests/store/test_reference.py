"""What tersor writes is read by the reference decoder, which knows docs/format.md alone."""

import io
import zlib

import numpy as np
import pytest
import reference_decoder
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_dicts import LARGE_SHAPES, SHAPES, bits_of, of_bits, sparse_codebook, tensors

from tersor.core.errors import FormatError
from tersor.store import load, save
from tersor.store import words as words_module
from tersor.store.choose import by_contexts, candidates
from tersor.store.codecs import Codebook, Codec, Dense, Map, Mask, Planes, Raw, Relative
from tersor.store.container import Writer, opened
from tersor.store.entries import Header, Part, Stored
from tersor.store.streams import encode
from tersor.store.words import DTYPES, grid, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def all_codecs(tensor):
    words, lattice = to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))
    return [
        *candidates(words, lattice, conventions=("gap1", "gap")),
        *by_contexts(words, lattice),
    ]


def file_of(tensor, codecs):
    """A file that has the tensor in each of these codecs."""
    words, lattice, shape = to_words(tensor), grid(tensor.dtype, tensor.shape), tuple(tensor.shape)
    file, entries = io.BytesIO(), []
    writer = Writer(file)
    for wanted in codecs:
        codec, data = encode(wanted, words, lattice)
        writer.stream(data)
        part = Part(lattice, codec, zlib.crc32(data))
        entries.append(Stored(str(len(entries)), tensor.dtype, shape, (part,)))
    writer.finish(Header(entries))
    return file.getvalue()


def assert_read(tensor, codecs):
    found, _, _ = reference_decoder.decode(file_of(tensor, codecs))
    expected = (str(tensor.dtype)[6:], tuple(tensor.shape), bits_of(tensor))
    for codec, read in zip(codecs, found.values(), strict=True):
        assert read == expected, codec


def plain(state):
    """A state dict as the reference decoder has it."""
    return {n: (str(t.dtype)[6:], tuple(t.shape), bits_of(t)) for n, t in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.complex64])
def test_every_codec(dtype):
    tensor = sparse_codebook((12, 37), density=0.1, size=5).mul(30).to(dtype)
    codecs = all_codecs(tensor)
    positions = {type(codec.positions) for codec in codecs}
    assert positions == {Dense, Mask, Map, Relative}
    assert {type(codec.values) for codec in codecs} == {Raw, Planes, Codebook}
    assert_read(tensor, codecs)


@settings(deadline=None, max_examples=100)
@given(tensor=tensors(LARGE_SHAPES | SHAPES), data=st.data())
def test_any_tensor_in_any_codec(tensor, data):
    codecs = data.draw(st.lists(st.sampled_from(all_codecs(tensor)), min_size=1, max_size=4))
    assert_read(tensor, codecs)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from([(60,), (9, 40), (40, 9), (4, 3, 5, 5), (6, 2, 3), (5, 1, 9, 9)]),
    density=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    size=st.sampled_from([1, 2, 3, 16, 17, 33, 100]),
    lags=st.tuples(*2 * [st.sampled_from([0, 1, 2, 3, 5, 9, 28, 2**31 - 1])]),
    seed=st.integers(0, 1000),
)
def test_contexts_with_any_lag_and_kernel(shape, density, size, lags, seed):
    tensor = sparse_codebook(shape, density=density, size=size, seed=seed)
    book = len(tensor.unique())
    kept = int(tensor.count_nonzero())
    map_lag, code_lag = lags
    codecs = [Codec(Dense(), Codebook(book, context=0, lag=code_lag))]
    codecs.append(Codec(Map(kept, 0, map_lag), Raw()))
    if kept:
        inner = Codebook(book - (kept < tensor.numel()), context=0, lag=code_lag)
        codecs += [Codec(Map(kept, 0, map_lag), inner), Codec(Mask(kept), inner)]
    assert_read(tensor, codecs)


@pytest.mark.parametrize("count", [2**16 - 1, 2**16, 2**16 + 5])
def test_few_and_many_rans_lanes(count):
    rng = np.random.default_rng(count)
    noise = torch.from_numpy(rng.standard_normal(count)).half()
    noise[::3] = 0
    noise[:-9:7] = 1.5
    few = (noise * 8).round().to(torch.int8)
    kept = int(few.count_nonzero())
    book = len(few[few != 0].unique())
    assert_read(noise, [Codec(Dense(), Planes((1, 1), rotate)) for rotate in (False, True)])
    assert_read(few, [Codec(Dense(), Codebook(len(few.unique()), rans=0))])
    assert_read(few, [Codec(Mask(kept), Codebook(book, rans=0))])


@settings(deadline=None, max_examples=60)
@given(
    tensor=tensors(st.sampled_from([(200,), (13, 20), (3, 70), (130, 2), (5, 3, 7), (2, 200)])),
    size=st.sampled_from([1, 7, 20, 64]),
)
def test_parts(tensor, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "a.terse"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "PART_WORDS", size)
        patch.setattr(reference_decoder, "PART_WORDS", size)
        save({"w": tensor}, path)
        with opened(path) as file:
            assert len(file.header.entries[0].parts) > 1 or len(to_words(tensor)) <= size
        found, _, _ = reference_decoder.decode(path.read_bytes())
        assert found == plain({"w": tensor}) == plain(load(path))


@settings(deadline=None, max_examples=100)
@given(tensor=tensors(), seed=st.integers(0, 2**32))
def test_differences_to_a_base(tensor, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "a.terse"
    rng = np.random.default_rng(seed)
    words = to_words(tensor).copy()
    few = rng.random(words.shape) < 0.1
    words[few] += rng.integers(-3, 4, int(few.sum())).astype(words.dtype)
    base = {"w": of_bits(bytearray(words.tobytes()), tensor.dtype, tensor.shape)}
    save({"w": tensor}, path, base=base)
    found, _, _ = reference_decoder.decode(path.read_bytes(), plain(base))
    assert found == plain({"w": tensor}) == plain(load(path, base=base))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_a_difference_in_every_dtype(name, tmp_path):
    """The base is another one in every word, by 1: the difference is what is stored."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(0)
    size = torch.empty(0, dtype=dtype).itemsize
    octets = rng.integers(0, 256, 400 * size, dtype=np.uint8)
    word = size // 2 if dtype.is_complex else size
    base = {"w": of_bits(bytearray(octets.tobytes()), dtype, (400,))}
    near = (octets.view(f"u{word}") + 1).astype(f"u{word}")
    state = {"w": of_bits(bytearray(near.tobytes()), dtype, (400,))}
    save(state, tmp_path / "a.terse", base=base)
    found, _, _ = reference_decoder.decode((tmp_path / "a.terse").read_bytes(), plain(base))
    assert found == plain(state)
    with pytest.raises(FormatError, match="a difference to a base"):
        load(tmp_path / "a.terse")

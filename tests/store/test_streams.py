"""Every codec there is, forced, on every kind of tensor: not only the ones that win."""

import zlib

import by_hand
import numpy as np
import pytest
import reference_decoder
import torch
from hypothesis import given, settings
from state_dicts import LARGE_SHAPES, SHAPES, bits_of, sparse_codebook, tensors

from tersor.core.errors import FormatError
from tersor.store.choose import best, candidates
from tersor.store.codecs import Codebook, Codec, Dense, Mask, Raw, Relative
from tersor.store.header import Header, Stored, dump
from tersor.store.streams import decode, encode
from tersor.store.words import Grid, from_words, grid, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def all_codecs(tensor):
    lattice = grid(tensor.dtype, tuple(tensor.shape))
    return list(candidates(to_words(tensor), lattice, conventions=("gap1", "gap")))


def assert_codec_works(codec, tensor):
    words, lattice = to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))
    data = encode(codec, words, lattice)
    assert len(data) == codec.byte_length(lattice), codec
    back = from_words(decode(codec, data, lattice), tensor.dtype, tuple(tensor.shape))
    assert bits_of(back) == bits_of(tensor), codec
    return data


@settings(deadline=None, max_examples=150)
@given(tensor=tensors(LARGE_SHAPES | SHAPES))
def test_every_codec_gives_the_bits_back_in_the_bytes_it_promised(tensor):
    sizes = [len(assert_codec_works(codec, tensor)) for codec in all_codecs(tensor)]
    lattice = grid(tensor.dtype, tuple(tensor.shape))
    winner = best(to_words(tensor), lattice)
    assert len(encode(winner, to_words(tensor), lattice)) <= min(sizes, default=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.complex64])
def test_the_reference_decoder_reads_every_codec(dtype):
    tensor = sparse_codebook((12, 37), density=0.1, size=5).mul(30).to(dtype)
    codecs = all_codecs(tensor)
    assert len(codecs) == 3 + 3 + 2 * 2 * 7 * 2 * 3
    lattice = grid(dtype, (12, 37))
    for codec in codecs:
        data = encode(codec, to_words(tensor), lattice)
        header, _ = dump(Header([Stored("w", dtype, (12, 37), codec, zlib.crc32(data))]))
        plain = by_hand.split(by_hand.build(None, raw=header, flags=1))[0]
        found, _, _ = reference_decoder.decode(by_hand.build(plain, data))
        assert found["w"] == (str(dtype)[6:], (12, 37), bits_of(tensor)), codec


def test_pruned_and_shared_weights_are_told_by_gaps_and_a_codebook():
    codec = best(*_words(sparse_codebook((300, 784), density=0.08, size=64)))
    assert isinstance(codec.positions, Relative)
    assert isinstance(codec.values, Codebook)
    assert codec.positions.huffman is not None
    assert codec.values.size == 64


def test_half_empty_weights_are_told_by_a_mask():
    codec = best(*_words(sparse_codebook((100, 100), density=0.5, size=4000)))
    assert isinstance(codec.positions, Mask)


def test_empty_columns_are_scanned_by_column():
    weight = sparse_codebook((60, 80), density=0.5, size=8)
    weight[:, 5:] = 0
    by_column = best(*_words(weight)).positions
    assert by_column.order == "column"
    assert best(*_words(weight.T.contiguous())).positions.order == "row"


def test_noise_is_stored_as_it_is_and_repeated_words_are_not():
    noise = torch.randn(300, 30, generator=torch.Generator().manual_seed(0))
    assert best(*_words(noise)) == Codec(Dense(), Raw())
    few = sparse_codebook((30, 30), density=1.0, size=4)
    assert best(*_words(few)) in (Codec(Dense(), Codebook(4)), Codec(Dense(), Codebook(4, 225)))


def _words(tensor):
    return to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))


LINE = Grid(1, 16, 4)
WORD = (5).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("codec", "data", "match"),
    [
        (Codec(Dense(), Raw()), bytes(63), "streams of 63 bytes, expected 64"),
        (Codec(Mask(1), Raw()), b"\0\1" + bytes(4), "1 words are zero, expected 0"),
        (Codec(Mask(1), Raw()), b"\0\3" + WORD, "mask of 2 words, expected 1"),
        (Codec(Mask(17), Raw()), bytes(70), "kept 17, expected 0 to 16"),
        (Codec(Relative(3, 1, 0), Raw()), b"\7" + bytes(4), "1 words are zero, expected 0"),
        (Codec(Relative(3, 1, 0), Raw()), b"\x47" + WORD, "padding after the codes"),
        (Codec(Relative(8, 1, 0), Raw()), b"\x10" + WORD, "position 16, but there are 16"),
        (Codec(Relative(2, 1, 1), Raw()), b"\0" + bytes(4) + WORD, "a filler does not have"),
        (Codec(Relative(2, 1, 1), Raw()), b"\3" + WORD + WORD, "0 words are zero, expected 1"),
        (Codec(Relative(1, 1, 0), Raw()), b"\0" + WORD, "bits 1, expected 2 to 8"),
        (Codec(Relative(9, 1, 0), Raw()), b"\0\0" + WORD, "bits 9, expected 2 to 8"),
        (Codec(Relative(2, 9, 8), Raw()), bytes(99), "fillers 8, expected 0 to 7"),
        (Codec(Relative(2, 1, 1), Codebook(1)), b"\3" + WORD + b"\0", "0 fillers, expected 1"),
        (Codec(Relative(2, 1, 0), Codebook(2)), bytes(9), "codebook size 2, expected 1 to 1"),
        (Codec(Dense(), Codebook(0)), b"", "codebook size 0, expected 1 to 16"),
        (Codec(Dense(), Codebook(2)), WORD + WORD + bytes(2), "the codebook does not ascend"),
        (Codec(Mask(1), Codebook(1)), b"\1\0" + bytes(4), "a zero that it should not have"),
        (
            Codec(Dense(), Codebook(3)),
            b"".join(bytes([i, 0, 0, 0]) for i in range(3)) + b"\3\0\0\0",
            "code 3, but the codebook has 3 entries",
        ),
        (Codec(Dense(), Codebook(2, 1)), bytes(4) + WORD + b"\x22" + b"\0", "incomplete"),
    ],
)
def test_streams_that_lie_are_refused(codec, data, match):
    with pytest.raises(FormatError, match=match):
        decode(codec, data, LINE)


def test_what_cannot_be_allocated_is_a_format_error():
    with pytest.raises(FormatError, match="bytes cannot be allocated"):
        decode(Codec(Dense(), Codebook(1)), bytes(8), Grid(1, 2**59, 8))
    with pytest.raises(FormatError, match="bytes cannot be allocated"):
        decode(Codec(Relative(2, 0, 0), Raw()), b"", Grid(1, 2**59, 8))


def test_large_codebooks_of_two_bytes_come_back():
    rng = np.random.default_rng(0)
    tensor = torch.from_numpy(rng.permutation(np.arange(-32768, 32768)).astype(np.int16))
    for codec in all_codecs(tensor):
        assert_codec_works(codec, tensor)
    assert Codec(Dense(), Codebook(65536)) in all_codecs(tensor)

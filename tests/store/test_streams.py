"""Every codec there is, forced, on every kind of tensor: not only the ones that win."""

import itertools

import by_hand
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_dicts import LARGE_SHAPES, SHAPES, bits_of, sparse_codebook, tensors

from tersor.core.errors import FormatError
from tersor.store.choose import by_contexts, candidates, encoded
from tersor.store.codecs import Codebook, Codec, Dense, Map, Mask, Planes, Raw, Relative
from tersor.store.streams import decode, decode_entries, encode
from tersor.store.words import DTYPES, Grid, from_words, grid, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

KINDS = [Dense, Mask, Map, Relative]


def of(tensor):
    """The words and the grid of a tensor."""
    return to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))


def all_codecs(tensor):
    words, lattice = of(tensor)
    plain = candidates(words, lattice, conventions=("gap1", "gap"))
    return [*plain, *by_contexts(words, lattice)]


def some_of(codecs, rng, count=12):
    """All codecs that are not relative, and so many that are."""
    indexed = [codec for codec in codecs if isinstance(codec.positions, Relative)]
    others = [codec for codec in codecs if not isinstance(codec.positions, Relative)]
    return others + [indexed[i] for i in rng.permutation(len(indexed))[:count]]


def coders_of(codec):
    """How many streams of a codec have a length that is known only when they are there."""
    lengths = codec.values.lengths if isinstance(codec.values, Planes) else ()
    named = (getattr(codec.positions, "rans", None), getattr(codec.values, "rans", None))
    return len(lengths) + sum(length is not None for length in named)


def assert_codec_works(codec, tensor):
    words, lattice = of(tensor)
    true, data = encode(codec, words, lattice)
    assert len(data) == true.byte_length(lattice), codec
    back = from_words(decode(true, data, lattice), tensor.dtype, tuple(tensor.shape))
    assert bits_of(back) == bits_of(tensor), codec
    entries = decode_entries(true, data, lattice)
    if isinstance(codec.positions, Dense):
        assert entries.places is None, codec
        assert np.array_equal(entries.words, words), codec
    else:
        kept = np.flatnonzero(words)
        assert np.array_equal(entries.places, kept), codec
        assert np.array_equal(entries.words, words[kept]), codec
    assert (entries.codebook is None) == isinstance(codec.values, Raw | Planes), codec
    return true, data


def slack(codec, size):
    """How far an estimate may be off: nothing, but for rANS 2 bytes for each stream, for words of
    2 bytes hold what falls between them (the last state takes the rest); of long ones 1 in 1,000.
    """
    return 2 * coders_of(codec) + size / 1000 if coders_of(codec) else 0


def assert_estimate_is_close(codec, size, lattice):
    assert abs(codec.byte_length(lattice) - size) <= slack(codec, size), codec


@settings(deadline=None, max_examples=150)
@given(tensor=tensors(LARGE_SHAPES | SHAPES), seed=st.integers(0, 2**32))
def test_every_codec_gives_the_bits_back_in_the_bytes_it_promised(tensor, seed):
    words, lattice = of(tensor)
    sizes = []
    for codec in some_of(all_codecs(tensor), np.random.default_rng(seed)):
        _, data = assert_codec_works(codec, tensor)
        assert_estimate_is_close(codec, len(data), lattice)
        sizes.append(len(data) + slack(codec, len(data)))
    chosen, data = encoded(words, lattice)
    assert len(data) == chosen.byte_length(lattice)
    assert bits_of(
        from_words(decode(chosen, data, lattice), tensor.dtype, tensor.shape)
    ) == bits_of(tensor)
    # What is chosen by estimates is the smallest to within their error.
    assert len(data) <= min(sizes) + slack(chosen, len(data))


@settings(deadline=None, max_examples=100)
@given(
    tensor=tensors(LARGE_SHAPES | SHAPES),
    lags=st.tuples(*2 * [st.sampled_from([0, 1, 2, 3, 5, 28, 500, 2**31 - 1])]),
    rotate=st.booleans(),
)
def test_any_lag_and_both_rotations_give_the_bits_back(tensor, lags, rotate):
    places, values = lags
    words, lattice = of(tensor)
    for codec in by_contexts(words, lattice):
        lagged = Codec(
            by_hand.with_lag(codec, places).positions, by_hand.with_lag(codec, values).values
        )
        assert_codec_works(lagged, tensor)
    kept = int(np.count_nonzero(words))
    planes = Planes((0,) * lattice.word_size, rotate)
    for positions in (Dense(), Mask(kept), Map(kept, 0)):
        assert_codec_works(Codec(positions, planes), tensor)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_codec_is_there_for_every_dtype(name):
    """A third of the words is not zero, of any size: few values, but not very few."""
    dtype = DTYPES[name]
    words = np.zeros((6, 80), f"u{grid(dtype, (1,)).word_size}")
    words[:, ::3] = np.arange(27) % 9 + 200
    shape = (6, 40) if dtype.is_complex else (6, 80)
    tensor = from_words(words.reshape(-1), dtype, shape)
    codecs = all_codecs(tensor)
    assert len(set(map(str, codecs))) > 300
    for kind, coding in itertools.product(KINDS, ["raw", "planes", "packed", "Huffman", "rANS"]):
        assert any(isinstance(c.positions, kind) and coding in str(c.values) for c in codecs)
    for kind in (Dense, Mask, Map):
        assert any(isinstance(c.positions, kind) and "context" in str(c.values) for c in codecs)
    for codec in some_of(codecs, np.random.default_rng(0), 40):
        _, data = assert_codec_works(codec, tensor)
        assert_estimate_is_close(codec, len(data), of(tensor)[1])


def test_without_zeros_there_are_no_positions_to_tell():
    codecs = all_codecs(torch.arange(1, 500.0))
    assert {type(codec.positions) for codec in codecs} == {Dense}


@pytest.mark.parametrize("density", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("size", [1, 40, 3000])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_the_smallest_is_chosen_where_fillers_change_what_values_take(density, size, dtype):
    tensor = sparse_codebook((300, 100), density=density, size=size).mul(30).to(dtype)
    words, lattice = of(tensor)
    codecs = [c for c in candidates(words, lattice) if "2 bits" in str(c) or "5 bits" in str(c)]
    sizes = []
    for codec in codecs:
        true, data = encode(codec, words, lattice)
        sizes.append(true.byte_length(lattice))
        assert_estimate_is_close(codec, len(data), lattice)
    chosen, data = encoded(words, lattice)
    assert len(data) <= min(sizes) + slack(chosen, len(data))


def entropy(tensor):
    """Order-0 entropy of a tensor's words, in bytes of all of them together."""
    counts = np.unique(to_words(tensor), return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def size_of(tensor, **options):
    words, lattice = of(tensor)
    codec, data = encoded(words, lattice, **options)
    assert np.array_equal(decode(codec, data, lattice), words)
    return len(data)


def test_random_symbols_take_their_entropy_and_a_small_table():
    rng = np.random.default_rng(0)
    for size in (2, 3, 16, 250):
        symbols = np.minimum(rng.geometric(0.5 if size < 100 else 0.03, 60_000), size)
        tensor = torch.from_numpy(symbols.astype(np.float32))
        used = len(np.unique(symbols))
        assert size_of(tensor) < 1.003 * entropy(tensor) + 4 * used + 2 * used + 8


SHARES = np.linspace(0.005, 0.6, 300)


def skewed():
    """Each row has another share of ones; all places of it are alike."""
    rng = np.random.default_rng(1)
    return torch.from_numpy((rng.random((300, 200)) < SHARES[:, None]).astype(np.float32))


def clustered():
    """Islands of values in a sea of zeros."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((300, 200))
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-4, 5))
    return torch.from_numpy(np.where(noise > 10, np.round(noise / 8), 0.0)).float()


def rows_alike():
    """Each row as the one above, but for a few places."""
    rng = np.random.default_rng(3)
    row = rng.integers(0, 16, 200)
    rows = [
        row := np.where(rng.random(200) < 0.1, rng.integers(0, 16, 200), row) for _ in range(300)
    ]
    return torch.from_numpy(np.stack(rows)).float()


def pictures():
    """Rows that are pictures, 20 places wide: what is above is 20 columns before."""
    rng = np.random.default_rng(4)
    columns = rng.random((300, 1, 20)) < 0.15
    values = rng.integers(1, 9, (300, 1, 20)) * columns
    flips = rng.random((300, 10, 20)) < 0.03
    return torch.from_numpy(np.where(flips, 0, values).reshape(300, 200)).float()


def kernels():
    """Convolution kernels that are whole or empty."""
    rng = np.random.default_rng(5)
    kept = rng.random((60, 50, 1, 1)) < 0.2
    return torch.from_numpy(rng.integers(1, 6, (60, 50, 3, 3)) * kept).float()


@pytest.mark.parametrize(
    ("make", "least"),
    [(skewed, 0.9), (clustered, 0.55), (rows_alike, 0.45), (pictures, 0.5), (kernels, 0.85)],
)
def test_contexts_gain_where_neighbours_say_something(make, least):
    tensor = make()
    size = size_of(tensor)
    assert size < least * entropy(tensor)
    assert size < 0.95 * size_of(tensor, fast=True)
    codec, _ = encoded(*of(tensor))
    assert "context" in str(codec)


def test_contexts_come_near_to_the_entropy_of_what_made_the_tensor():
    row = -SHARES * np.log2(SHARES) - (1 - SHARES) * np.log2(1 - SHARES)
    assert size_of(skewed()) < 1.03 * 200 * row.sum() / 8


def test_the_distance_of_neighbours_is_found():
    codec, _ = encoded(*of(pictures()))
    assert 20 in (getattr(codec.positions, "lag", 0), codec.values.lag)
    # A second tensor with nothing but places.
    places = (pictures() != 0).float()
    codec = by_hand.codec_of(places, "context map, raw")
    assert codec.positions.lag == 20
    without, _ = encode(by_hand.with_lag(codec, 0), *of(places))
    assert 2 * codec.positions.bytes < without.positions.bytes


def test_the_shape_of_a_kernel_says_something():
    tensor = kernels()
    flat = tensor.reshape(60, 450)
    assert size_of(tensor) < 0.99 * size_of(flat)


def test_fast_uses_no_contexts():
    for make in (skewed, clustered, rows_alike, pictures, kernels):
        codec, _ = encoded(*of(make()), fast=True)
        assert "context" not in str(codec)
    words, lattice = of(clustered())
    fast, data = encoded(words, lattice, fast=True)
    assert len(data) <= min(c.byte_length(lattice) for c in candidates(words, lattice)) + 4
    assert "context" not in str(fast)


def test_pruned_and_shared_weights_need_less_than_their_entropy():
    weight = sparse_codebook((300, 784), density=0.08, size=64)
    size = size_of(weight)
    assert size < entropy(weight) * 1.005 + 4 * 65 + 60
    uneven = weight * (torch.arange(784) % 28 > 9)
    assert size_of(uneven) < entropy(uneven)


def test_half_empty_weights_with_many_values_are_told_by_places_and_words():
    weight = sparse_codebook((100, 100), density=0.5, size=4000)
    codec, _ = encoded(*of(weight))
    assert isinstance(codec.positions, Mask | Map)


def test_empty_columns_are_scanned_by_column():
    weight = sparse_codebook((60, 80), density=0.5, size=8)
    weight[:, 5:] = 0
    codec, _ = encoded(*of(weight), fast=True)
    assert codec.positions.order == "column"
    codec, _ = encoded(*of(weight.T.contiguous()), fast=True)
    assert codec.positions.order == "row"


def test_trained_weights_are_told_by_planes_of_bytes():
    noise = torch.randn(300, 100, generator=torch.Generator().manual_seed(0)) / 50
    for dtype, least in ((torch.float32, 0.93), (torch.bfloat16, 0.8), (torch.float64, 0.95)):
        weight = noise.to(dtype)
        codec, data = encoded(*of(weight))
        assert isinstance(codec.values, Planes)
        assert len(data) < least * weight.nbytes
    # An exponent fills a byte only when the sign is out of its way.
    assert by_hand.codec_of(noise, "dense, byte planes.*").values.rotate


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.int64])
@pytest.mark.parametrize("count", [1, 300, 5000, 70_000])
def test_what_cannot_be_compressed_is_stored_as_it_is(dtype, count):
    rng = np.random.default_rng(count)
    noise = torch.from_numpy(rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8))
    assert size_of(noise.view(dtype)) <= count * dtype.itemsize


def test_repeated_words_are_not_stored_as_they_are():
    few = sparse_codebook((30, 30), density=1.0, size=4)
    assert size_of(few) <= 16 + 225


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
        (Codec(Map(17, 0), Raw()), bytes(68), "kept 17, expected 0 to 16"),
        (Codec(Map(1, 1), Raw()), b"\0" + WORD, "a context stream ends in zero"),
        (Codec(Map(1, 9), Raw()), b"\1" * 9 + WORD, "context stream of 9 bytes, but 4 are read"),
        (Codec(Map(0, 0, -1), Raw()), b"", "lag -1, expected 0 to 2147483647"),
        (Codec(Relative(2, 1, 0, 1, 1), Raw()), bytes(5), "both 'huffman' and 'rans'"),
        (Codec(Relative(2, 1, 0, rans=1), Raw()), b"\x08" + WORD, "rANS table is cut short"),
        (
            Codec(Relative(2, 0, 0, rans=1), Raw()),
            b"\x08",
            "rANS stream of 1 bytes, but 0 are read",
        ),
        (Codec(Relative(2, 1, 0), Codebook(1, context=0)), bytes(5), "context with a relative"),
        (Codec(Dense(), Codebook(1, 0, 0)), WORD, "both 'huffman' and 'rans'"),
        (Codec(Dense(), Codebook(1, lag=3)), WORD, "lag 3, expected 0 to 0"),
        (Codec(Dense(), Planes((0, 0, 0))), bytes(48), "3 byte planes, but words have 4 bytes"),
        (Codec(Dense(), Planes((0, 0, 0, 5))), bytes(53), "rANS precision of 0 bits"),
        (Codec(Mask(1), Planes((0, 0, 0, 0))), b"\0\1" + bytes(4), "1 words are zero, expected 0"),
    ],
)
def test_streams_that_lie_are_refused(codec, data, match):
    for read in (decode, decode_entries):
        with pytest.raises(FormatError, match=match):
            read(codec, data, LINE)


def test_what_cannot_be_allocated_is_a_format_error():
    with pytest.raises(FormatError, match="bytes cannot be allocated"):
        decode(Codec(Dense(), Codebook(1)), bytes(8), Grid(1, 2**59, 8))
    with pytest.raises(FormatError, match="bytes cannot be allocated"):
        decode(Codec(Relative(2, 0, 0), Raw()), b"", Grid(1, 2**59, 8))


def test_large_codebooks_of_two_bytes_come_back():
    rng = np.random.default_rng(0)
    tensor = torch.from_numpy(rng.permutation(np.arange(-32768, 32768)).astype(np.int16))
    codecs = all_codecs(tensor)
    for codec in some_of(codecs, rng, 3):
        assert_codec_works(codec, tensor)
    assert Codec(Dense(), Codebook(65536)) in codecs

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import INITS, MAX_BITS, CodebookGrid, KMeans, kmeans_1d, quantize_

every_init = pytest.mark.parametrize("init", INITS)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def row(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor([values], dtype=dtype)


@every_init
@pytest.mark.parametrize("bits", [1, 2, 5, MAX_BITS])
def test_a_tensor_takes_at_most_two_to_the_bits_values(init, bits):
    weight = normal(6, 16)
    distinct = KMeans(bits, init)(weight).unique()
    assert len(distinct) <= 2**bits
    assert len(distinct) == min(2**bits, 96) or init == "linear"


def test_a_weight_takes_the_nearest_centroid():
    weight = normal(6, 16)
    quantizer = KMeans(3, "exact")
    book = quantizer.fit(weight).centroids
    gaps = (weight[..., None] - book).abs().min(dim=-1).values
    assert torch.equal((quantizer(weight) - weight).abs(), gaps)


def test_the_centroids_are_those_of_kmeans_on_the_kept_weights_alone():
    weight = row(6.0, 1.0, 1.5, 0.0, 9.0, 77.0)
    kept = row(1, 1, 1, 0, 1, 0).bool()
    found = kmeans_1d(row(6.0, 1.0, 1.5, 9.0), 2)
    assert KMeans(1).fit(weight, kept).centroids.tolist() == found.centroids.tolist() == [1.25, 7.5]
    assert KMeans(1)(weight, kept).tolist() == [[7.5, 1.25, 1.25, 0.0, 7.5, 0.0]]


@every_init
@given(density=st.floats(0.1, 1.0))
def test_what_is_pruned_stays_plus_zero_and_what_is_kept_is_never_zero(init, density):
    weight = normal(6, 16)
    kept = torch.rand(6, 16, generator=torch.Generator().manual_seed(1)) < density
    new = KMeans(2, init)(torch.where(kept, weight, -0.0), kept)
    assert new[~kept].view(torch.int32).eq(0).all()
    assert torch.equal(new != 0, kept)


@every_init
def test_clusters_around_zero_do_not_get_zero_for_a_centroid(init):
    weight = row(*([-2.0, -1.0, 1.0, 2.0] * 5 + [-10.0, 10.0]))
    assert KMeans(1, init)(weight).ne(0).all()


def test_a_centroid_that_would_be_zero_becomes_its_member_nearest_to_zero():
    quantizer, weight = KMeans(1, "exact"), row(-2.0, -0.5, 0.5, 2.0, 100.0)
    assert quantizer.fit(weight).centroids.abs().tolist() == [0.5, 100.0]
    assert quantizer(weight)[0, :4].abs().tolist() == [0.5] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_live_zeros_alone_become_the_smallest_normal_number(dtype):
    new = KMeans(2)(row(0.0, 0.0, 0.0, 7.0, dtype=dtype), row(1, 1, 0, 1).bool())
    tiny = torch.finfo(dtype).tiny
    assert new.tolist() == [[tiny, tiny, 0.0, 7.0]]


@every_init
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_weights_of_every_floating_type_keep_it(init, dtype):
    new = KMeans(3, init)(normal(6, 16, dtype=dtype))
    assert new.dtype == dtype
    assert len(new.unique()) <= 8


def test_channels_last_weights_are_shared_like_contiguous_ones():
    plain, last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    last.load_state_dict(plain.state_dict())
    last = last.to(memory_format=torch.channels_last)
    strides = last.weight.stride()
    quantize_(plain, 3)
    quantize_(last, 3)
    assert torch.equal(plain.weight, last.weight)
    assert last.weight.stride() == strides


def test_a_seed_decides_random_and_nothing_else():
    def shared(init, seed):
        return KMeans(3, init, seed)(torch.arange(1.0, 40)[None] ** 3)

    assert torch.equal(shared("random", 1), shared("random", 1))
    assert not torch.equal(shared("random", 0), shared("random", 3))
    assert torch.equal(shared("linear", 1), shared("linear", 2))


def test_the_global_generator_is_left_as_it_was():
    state = torch.get_rng_state()
    KMeans(2, "random")(normal(6, 16))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_init_is_answered_with_a_near_miss():
    with pytest.raises(ConfigError, match="'exakt'; did you mean 'exact'"):
        KMeans(2, init="exakt")


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=1, max_size=9, unique=True), st.lists(floats, max_size=20))
def test_a_codebook_grid_gives_the_nearest_the_lower_one_of_two(centroids, values):
    book = torch.tensor(sorted(set(torch.tensor(centroids).tolist())))
    grid, x = CodebookGrid(book), torch.tensor(values, dtype=torch.float32)
    new = grid.round(x)
    gaps = (x.double()[:, None] - book.double()).abs()
    assert torch.equal(new, book[gaps.argmin(dim=1)]) or torch.equal(
        (new.double() - x.double()).abs(), gaps.min(dim=1).values
    )
    assert torch.equal(grid.round(book), book)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_centroids_without_a_number_between_them_stay_apart(dtype):
    one = torch.ones(1, dtype=dtype)
    book = torch.cat([one, torch.nextafter(one, 2 * one)])
    for pair in (book, torch.nextafter(book, 3 * one)):
        assert torch.equal(CodebookGrid(pair).round(pair), pair)


def test_a_middle_that_is_no_number_of_the_dtype_parts_its_neighbours():
    ulp = torch.finfo(torch.float32).eps
    book = torch.tensor([1.0, 1 + 3 * ulp])  # half-way lies between 1 + ulp and 1 + 2 ulp
    x = torch.tensor([1 + ulp, 1 + 2 * ulp])
    assert torch.equal(CodebookGrid(book).round(x), book)


@pytest.mark.parametrize(("granularity", "rows"), [("channel", 1), (4, 4), (6, 6), (9, 9)])
def test_groups_of_channels_are_quantized_as_tensors_of_their_own(granularity, rows):
    weight = normal(6, 4, 2, 2)
    kept = normal(6, 4, 2, 2) > -1
    new = KMeans(2, granularity=granularity)(weight, kept)
    parts = zip(weight.split(rows), kept.split(rows), strict=True)
    assert torch.equal(new, torch.cat([KMeans(2)(*part) for part in parts]))


def test_bounds_of_groups_are_those_of_their_codebooks():
    weight = normal(6, 4, 2)
    low, high = KMeans(2, granularity=4).fit(weight).bounds()
    new = KMeans(2, granularity=4)(weight)
    assert (low.shape, high.shape) == ((6, 1, 1), (6, 1, 1))
    for part, lowest, highest in zip(new.split(4), low.split(4), high.split(4), strict=True):
        assert (lowest == part.min()).all()
        assert (highest == part.max()).all()


def test_a_channel_that_is_all_pruned_is_zero():
    kept = torch.ones(3, 8, dtype=torch.bool)
    kept[1] = False
    new = KMeans(1, granularity="channel")(normal(3, 8), kept)
    assert torch.equal(new != 0, kept)


def test_importance_draws_centroids_to_what_matters():
    weight, importance = row(0.0, 1.0, 4.0, 5.0, 100.0), row(1.0, 3.0, 0.0, 0.0, 1.0)
    grid = KMeans(1, "exact").fit(weight, None, importance)
    assert grid.centroids.tolist() == [0.75, 100.0]
    # Where no entry of a channel matters, all do.
    channels = KMeans(1, "exact", granularity="channel").fit(
        torch.cat([weight, weight]), None, torch.cat([importance, 0 * importance])
    )
    assert channels.codebooks[0].centroids.tolist() == [0.75, 100.0]
    assert channels.codebooks[1].centroids.tolist() == [2.5, 100.0]


def test_the_weighted_error_is_the_least_of_all_pairs_of_intervals():
    weight = normal(1, 12, dtype=torch.float64)
    importance = normal(1, 12, dtype=torch.float64).roll(5).square()

    def error(new):
        return float((importance * (new - weight).square()).sum())

    order = weight[0].argsort()
    costs = []
    for cut in range(1, 12):
        new = torch.empty_like(weight)
        for part in (order[:cut], order[cut:]):
            w = importance[0, part]
            new[0, part] = (w * weight[0, part]).sum() / w.sum()
        costs.append(error(new))
    found = error(KMeans(1, "exact")(weight, None, importance))
    assert found == pytest.approx(min(costs), rel=1e-9)
    assert found < error(KMeans(1, "exact")(weight)) * 0.999


@pytest.mark.parametrize("granularity", ["row", 0, -2, True, 1.5])
def test_an_unknown_granularity_is_named(granularity):
    with pytest.raises(ConfigError, match=f"granularity {granularity!r}; expected 'tensor'"):
        KMeans(granularity=granularity)

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core import MaskSet
from tersor.core.errors import ConfigError
from tersor.quantize import INITS, MAX_BITS, kmeans_1d, quantize_

every_init = pytest.mark.parametrize("init", INITS)


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    ).to(dtype)


def linear(values: list[float], dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(len(values), 1, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values], dtype=dtype))
    return model


def mask(*bits: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([bits], dtype=torch.bool)}


@every_init
@pytest.mark.parametrize("bits", [1, 2, 5, MAX_BITS])
def test_a_tensor_takes_at_most_two_to_the_bits_values(init, bits):
    model = net()
    codebooks, _ = quantize_(model, bits, init=init)
    for name, book in codebooks.items():
        weight = model.get_parameter(name)
        distinct = weight.unique()
        assert torch.equal(distinct, book.centroids.sort().values)
        assert len(distinct) <= 2**bits
        assert len(distinct) == min(2**bits, weight.numel()) or init == "linear"
        assert torch.equal(book.decode(), weight)


def test_a_weight_takes_the_nearest_centroid_and_the_rms_error_says_how_near_that_is():
    model, before = net(), net()
    codebooks, report = quantize_(model, 3, init="exact")
    for row in report.rows:
        old = before.get_parameter(row["name"]).detach().flatten()
        book = codebooks[row["name"]]
        gaps = (old[:, None] - book.centroids[None, :]).abs().min(dim=1).values.double()
        new = model.get_parameter(row["name"]).detach().flatten()
        torch.testing.assert_close((new - old).abs().double(), gaps)
        assert math.isclose(row["rms error"], gaps.square().mean().sqrt(), rel_tol=1e-6)
        assert math.isclose(row["wcss"], gaps.square().sum(), rel_tol=1e-6)


def test_the_centroids_are_those_of_kmeans_on_the_kept_weights_alone():
    model = linear([6.0, 1.0, 1.5, 0.0, 9.0, 0.0])
    codebooks, _ = quantize_(model, 1)
    book = codebooks["weight"]
    found = kmeans_1d(torch.tensor([6.0, 1.0, 1.5, 9.0]), 2)
    assert book.centroids.tolist() == found.centroids.tolist() == [1.25, 7.5]
    assert book.codes.tolist() == [[1, 0, 0, -1, 1, -1]]
    assert model.weight.tolist() == [[7.5, 1.25, 1.25, 0.0, 7.5, 0.0]]


@every_init
def test_biases_norms_and_statistics_stay_as_they_were(init):
    model, before = net(), net().state_dict()
    quantize_(model, 2, init=init)
    rest = [name for name in before if name not in ("0.weight", "3.weight", "4.weight")]
    assert len(rest) == 8
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in rest)


@every_init
@given(density=st.floats(0.1, 1.0))
def test_what_is_pruned_stays_plus_zero_and_what_is_kept_is_never_zero(init, density):
    model = net()
    generator = torch.Generator().manual_seed(1)
    masks = MaskSet(
        {
            f"{n}.weight": torch.rand(model[n].weight.shape, generator=generator) < density
            for n in (0, 3, 4)
        }
    )
    masks.apply(model)
    codebooks, _ = quantize_(model, 2, masks=masks, init=init)
    for name, book in codebooks.items():
        weight = model.get_parameter(name)
        assert weight[~masks[name]].view(torch.int32).eq(0).all()
        assert torch.equal(weight != 0, masks[name])
        assert torch.equal(book.codes >= 0, masks[name])


@every_init
def test_clusters_around_zero_do_not_get_zero_for_a_centroid(init):
    model = linear([-2.0, -1.0, 1.0, 2.0] * 5 + [-10.0, 10.0])
    codebooks, _ = quantize_(model, 1, init=init)
    assert codebooks["weight"].centroids.ne(0).all()
    assert model.weight.ne(0).all()


def test_a_centroid_that_would_be_zero_becomes_its_member_nearest_to_zero():
    model = linear([-2.0, -0.5, 0.5, 2.0, 100.0])
    codebooks, _ = quantize_(model, 1, init="exact")
    assert codebooks["weight"].centroids.abs().tolist() == [0.5, 100.0]
    assert model.weight[0, :4].abs().tolist() == [0.5] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_live_zeros_alone_become_the_smallest_normal_number(dtype):
    model = linear([0.0, 0.0, 0.0, 7.0], dtype)
    codebooks, _ = quantize_(model, 2, masks=mask(1, 1, 0, 1))
    assert codebooks["weight"].codes.tolist() == [[0, 0, -1, 1]]
    tiny = torch.finfo(dtype).tiny
    assert model.weight.tolist() == [[tiny, tiny, 0.0, 7.0]]


def test_without_a_mask_a_zero_counts_as_pruned():
    codebooks, _ = quantize_(linear([0.0, -0.0, 3.0, 4.0]), 2)
    assert codebooks["weight"].codes.tolist() == [[-1, -1, 0, 1]]


def test_a_mask_wins_over_the_values():
    model = linear([1.0, 2.0, 3.0, 4.0])
    quantize_(model, 2, masks=mask(1, 0, 0, 1))
    assert model.weight.tolist() == [[1.0, 0.0, 0.0, 4.0]]


@every_init
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_weights_of_every_floating_type_keep_it(init, dtype):
    model = net(dtype)
    codebooks, _ = quantize_(model, 3, init=init)
    assert all(book.centroids.dtype == dtype for book in codebooks.values())
    assert len(model[3].weight.unique()) <= 8
    assert model[3].weight.dtype == dtype


def test_channels_last_weights_are_shared_like_contiguous_ones():
    plain, last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    last.load_state_dict(plain.state_dict())
    last = last.to(memory_format=torch.channels_last)
    strides = last.weight.stride()
    one, other = quantize_(plain, 3)[0]["weight"], quantize_(last, 3)[0]["weight"]
    assert torch.equal(plain.weight, last.weight)
    assert torch.equal(one.codes, other.codes)
    assert last.weight.stride() == strides


def test_bits_by_selector_leave_the_others_alone():
    model, before = net(), net()
    codebooks, report = quantize_(model, {"0": 3, nn.Linear: 1}, ignore="4")
    assert {n: len(b.centroids) for n, b in codebooks.items()} == {"0.weight": 8, "3.weight": 2}
    assert [row["bits"] for row in report.rows] == [3, 1]
    assert torch.equal(model[4].weight, before[4].weight)
    _, report = quantize_(net(), {"0": 3})
    assert report.skipped["3.weight"] == "no bits given"
    assert report.summary["tensors"] == 1


def test_two_selectors_may_agree_but_not_conflict():
    quantize_(net(), {"3": 2, "re:3": 2})
    with pytest.raises(ConfigError, match=r"two selectors name '3.weight', with 2 and 5"):
        quantize_(net(), {"3": 2, "Linear": 5})


def test_a_seed_decides_random_and_nothing_else():
    def shared(init, seed):
        model = net()
        quantize_(model, 2, init=init, seed=seed)
        return model[3].weight

    assert torch.equal(shared("random", 1), shared("random", 1))
    assert not torch.equal(shared("random", 1), shared("random", 2))
    assert torch.equal(shared("linear", 1), shared("linear", 2))


def test_the_global_generator_is_left_as_it_was():
    model, state = net(), torch.get_rng_state()
    quantize_(model, 2, init="random")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tensor_of_zeros_is_skipped_with_the_reason():
    model = net()
    with torch.no_grad():
        model[4].weight.zero_()
    codebooks, report = quantize_(model, 2)
    assert set(codebooks) == {"0.weight", "3.weight"}
    assert report.skipped["4.weight"] == "all of its weights are zero"


@pytest.mark.parametrize("bits", [0, -1, MAX_BITS + 1, 2.5, "5", True, {"0": 0}, {"0": 3.0}])
def test_bits_out_of_range_are_named_and_nothing_is_changed(bits):
    model = net()
    value = bits["0"] if isinstance(bits, dict) else bits
    with pytest.raises(ConfigError, match=rf"bits: {value!r}; expected .* from 1 to {MAX_BITS}"):
        quantize_(model, bits)
    assert len(model[3].weight.unique()) == 96


def test_no_bits_at_all_is_an_error():
    with pytest.raises(ConfigError, match="bits: an empty mapping"):
        quantize_(net(), {})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"4.weight": torch.ones(3, dtype=torch.bool)}, r"'4.weight': shape \(3,\).*\(3, 6\)"),
        ({"4.weight": torch.ones(3, 6)}, r"'4.weight': dtype torch.float32, expected torch.bool"),
        ({"5.weight": torch.ones(3, dtype=torch.bool)}, r"'5.weight': Sequential has no such"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_and_nothing_is_changed(masks, message):
    model = net()
    with pytest.raises(ConfigError, match=message):
        quantize_(model, 2, masks=masks)
    assert len(model[0].weight.unique()) == 36


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_changed(value):
    model = net()
    with torch.no_grad():
        model[4].weight[0, 0] = value
    with pytest.raises(ConfigError, match=r"'4.weight'.*NaN or infinite"):
        quantize_(model, 2)
    assert len(model[0].weight.unique()) == 36


def test_an_unknown_init_is_answered_with_a_near_miss():
    with pytest.raises(ConfigError, match="'exakt'; did you mean 'exact'"):
        quantize_(net(), 2, init="exakt")

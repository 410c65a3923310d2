import itertools

import pytest
import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.quantize import Product, Residual
from tersor.quantize.vector_codebook import blocks_of


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(weight: Tensor, found: Tensor) -> float:
    return float((weight - found).double().square().sum())


BOTH = {"product": Product, "residual": Residual}
both = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


@both
@pytest.mark.parametrize("codebook", ["shared", "position"])
@pytest.mark.parametrize("dimension", [1, 4, 5])
def test_with_a_centroid_for_every_subvector_there_is_no_error(make, codebook, dimension):
    weight = drawn(6, 22)
    found = make(k=132, dimension=dimension, codebook=codebook)(weight)
    torch.testing.assert_close(found, weight, rtol=0, atol=0)


@both
def test_each_row_is_cut_into_subvectors_that_take_k_values(make):
    found = make(k=4, dimension=3)(drawn(20, 9))
    most = 4 if make is Product else 16
    assert 4 <= len(found.view(-1, 3).unique(dim=0)) <= most


def test_a_convolution_is_cut_into_kernels():
    found = Product(k=4)(drawn(8, 5, 3, 3))
    assert len(found.view(-1, 9).unique(dim=0)) == 4
    assert [blocks_of(s, None).size for s in ((8, 6, 1, 1), (8, 6, 5), (8, 30))] == [4, 5, 8]


@pytest.mark.parametrize("shape", [(40, 10), (10, 7, 3, 3)])
def test_the_last_subvector_of_a_row_is_shorter(shape):
    weight = drawn(*shape)
    found = Product(k=8, dimension=4)(weight).flatten(1)
    rows = found.shape[1]
    assert len(found[:, : rows // 4 * 4].reshape(-1, 4).unique(dim=0)) <= 8
    assert len(found[:, rows // 4 * 4 :].unique(dim=0)) <= 8
    # The short ones have a say, and what they lack has none: whole ones would not be met by it.
    alone = Product(k=8, dimension=4)(weight.flatten(1)[:, rows // 4 * 4 :].contiguous())
    assert error(weight.flatten(1)[:, rows // 4 * 4 :], alone) < error(
        weight.flatten(1)[:, rows // 4 * 4 :], found[:, rows // 4 * 4 :]
    )


def test_a_codebook_for_each_position_is_that_of_its_columns_alone():
    weight = drawn(50, 8)
    found = Product(k=4, dimension=4, codebook="position")(weight)
    assert [len(part.unique(dim=0)) for part in found.split(4, 1)] == [4, 4]
    apart = torch.cat(
        [part * (7.0 if at else 1.0) for at, part in enumerate(weight.split(4, 1))], 1
    )
    scaled = Product(k=4, dimension=4, codebook="position")(apart)
    torch.testing.assert_close(scaled[:, :4], found[:, :4])


@both
def test_more_centroids_lower_the_error(make):
    weight = drawn(64, 64)
    errors = [error(weight, make(k=k, dimension=4)(weight)) for k in (2, 4, 16, 64, 256)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


def test_each_stage_lowers_the_error_and_the_first_is_product_quantization():
    weight, kept = drawn(64, 64), drawn(64, 64, seed=1) > 0
    weight = torch.where(kept, weight, 0.0)
    found = [Residual(stages, k=4, dimension=4)(weight, kept) for stages in (1, 2, 3, 4)]
    errors = [error(weight, values) for values in found]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    torch.testing.assert_close(found[0], Product(k=4, dimension=4)(weight, kept))


@both
def test_only_kept_entries_count(make):
    weight, kept = drawn(40, 16), drawn(40, 16, seed=1) > 0.5
    found = make(k=8, dimension=4)(weight, kept)
    assert (found[~kept] == 0).all()
    assert (found[kept] != 0).all()
    blind = make(k=8, dimension=4)(torch.where(kept, weight, 0.0))
    assert error(weight[kept], found[kept]) < 0.9 * error(weight[kept], blind[kept])


def test_important_entries_are_met_better():
    weight, matters = drawn(40, 16), drawn(40, 16, seed=1).exp()
    plain = (Product(k=16, dimension=4)(weight) - weight).square() * matters
    aware = (Product(k=16, dimension=4)(weight, None, matters) - weight).square() * matters
    assert aware.sum() < 0.9 * plain.sum()


def test_a_quantized_weight_is_quantized_to_itself():
    once = Product(k=16, dimension=4)(drawn(64, 64))
    assert torch.equal(Product(k=16, dimension=4)(once), once)


def test_no_kept_entry_becomes_zero():
    weight = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [5.0, 6.0], [5.0, 6.0]])
    found = Product(k=2, dimension=2)(weight)
    assert found[:2].tolist() == [[torch.finfo(torch.float32).tiny, 2.0]] * 2


def test_bits_are_those_of_the_codes():
    assert Product(k=256, dimension=4).bits == 2
    assert Residual(3, k=16, dimension=4).bits == 3
    assert Product(k=256).bits_of(torch.Size((10, 20, 3, 3))) == 8 / 9
    assert (
        Product(k=256, dimension=4).bits_of(torch.Size((7, 10))) == 8 * 3 / 10
    )  # the last is short
    assert Residual(2, k=256, dimension=4).bits_of(torch.Size((7, 10))) == 2 * 8 * 3 / 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype_keeps_its_own(dtype):
    weight = nn.functional.normalize(drawn(30, 16)).to(dtype)
    for make in (Product, Residual):
        found = make(k=16, dimension=4)(weight)
        assert found.dtype == dtype
        assert error(weight, found) < 0.5 * float(weight.double().square().sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product(k=1), "k: 1; expected 2 to 65,536"),
        (lambda: Product(k=2.5), "k: 2.5; expected 2 to 65,536"),
        (lambda: Product(dimension=0), "dimension: 0; expected 1 or more"),
        (lambda: Product(codebook="postion"), "codebook 'postion': did you mean 'position'"),
        (lambda: Residual(stages=0), "stages: 0; expected 1 or more"),
        (lambda: Residual(k=1), "k: 1; expected 2 to 65,536"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

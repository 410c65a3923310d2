import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, KMeans, OutlierAware
from tersor.quantize.outlier import HALF, outliers


def heavy(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) ** 3


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30), st.floats(0, 1))
def test_exactly_the_fraction_are_outliers_and_none_of_the_rest_is_larger(values, fraction):
    x = torch.tensor(values, dtype=torch.float32)
    kept = torch.arange(len(x)) % 3 != 1
    large = outliers(x, kept, fraction)
    assert int(large.sum()) == round(fraction * int(kept.sum()))
    assert not (large & ~kept).any()
    rest = kept & ~large
    if large.any() and rest.any():
        assert x[large].abs().min() >= x[rest].abs().max()
        edge = x.abs() == x[large].abs().min()
        assert large[edge & kept].int().diff().le(0).all()  # of equal ones the first


def test_no_outliers_is_the_other_quantizer_and_outliers_alone_are_16_bit_numbers():
    weight = heavy(8, 30)
    assert torch.equal(OutlierAware(0.0)(weight), Affine(4, "tensor")(weight))
    torch.testing.assert_close(OutlierAware(1.0)(weight), weight, rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("inner", [Affine(4, "tensor"), Affine(3, "channel"), KMeans(3)])
def test_heavy_tails_are_better_off(inner):
    weight = heavy(40, 100)
    split = (OutlierAware(0.03, inner)(weight) - weight).square().mean()
    alone = (inner(weight) - weight).square().mean()
    assert split < alone


def test_the_rest_is_quantized_as_if_the_outliers_were_not_there():
    weight, kept = heavy(6, 20), torch.rand(6, 20) < 0.7
    quantizer = OutlierAware(0.1)
    new = quantizer(weight, kept)
    large = outliers(weight, kept, 0.1)
    assert torch.equal(new[large], HALF(weight, large)[large])
    rest = Affine(4, "tensor")(weight, kept & ~large)
    assert torch.equal(new[~large], rest[~large])


def test_the_bits_are_the_mean_of_both():
    assert OutlierAware(0.25, Affine(4)).bits == 0.25 * 16 + 0.75 * 4


def test_a_fraction_out_of_range_is_named():
    with pytest.raises(ConfigError, match=r"fraction: 1.5; expected 0 <= fraction <= 1"):
        OutlierAware(1.5)

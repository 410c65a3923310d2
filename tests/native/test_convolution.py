"""Sparse convolutions without patches, against torch's in float64."""

import numpy as np
import pytest
import torch
from native_calls import ACTIVATIONS, TRUTHS, address, error, numbers, sparse_matrix
from torch.nn import functional

from tersor import _native
from tersor.run.packing import entries_of, pack_sparse, widest_tile

CLOSE = 2e-6  # of the largest output


def packed_weight(weight, groups=1, *, tile=1024, row_block=32):
    entries = entries_of(weight.flatten(1)).spread(groups)
    tile = min(tile, widest_tile(entries))
    return pack_sparse(entries, tile=tile, row_block=row_block)


def convolved(
    packed,
    x,
    want,
    kernel,
    *,
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    scale=None,
    bias=None,
    activation="none",
    threads=1,
):
    out = torch.full(want.shape, torch.nan)
    _native.sparse_convolution(
        packed.data_ptr(),
        packed.numel(),
        x.data_ptr(),
        *x.shape,
        *kernel,
        *stride,
        *padding,
        *dilation,
        out.data_ptr(),
        address(scale),
        address(bias),
        ACTIVATIONS.index(activation),
        threads,
    )
    return out


def drawn(draws):
    """One convolution: input, weight, geometry, groups; the kernel fits into the padded image."""
    while True:
        kernel, stride, padding, dilation = (
            tuple(draws.integers(low, high, 2).tolist())
            for low, high in ((1, 6), (1, 4), (0, 8), (1, 4))
        )
        sides = draws.integers(1, 24, 2).tolist()
        fits = [
            s + 2 * p > d * (k - 1)
            for s, p, d, k in zip(sides, padding, dilation, kernel, strict=True)
        ]
        if all(fits):
            break
    groups = int(draws.integers(1, 4))
    channels, rows = groups * int(draws.integers(1, 5)), groups * int(draws.integers(1, 15))
    images, seed = int(draws.integers(1, 5)), int(draws.integers(1000))
    values = [None, 10, 100][draws.integers(3)]
    columns = channels // groups * kernel[0] * kernel[1]
    weight = sparse_matrix(rows, columns, density=0.5, values=values, seed=seed)
    x = numbers(images, channels, *sides, seed=seed)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    return x, weight.view(rows, channels // groups, *kernel), geometry, groups


@pytest.mark.parametrize("seed", range(60))
def test_convolutions_are_those_of_float64(isa, seed):
    draws = np.random.default_rng(seed)
    x, weight, geometry, groups = drawn(draws)
    want = functional.conv2d(x.double(), weight.double(), groups=groups, **geometry)
    tile, row_block = int(draws.integers(1, 200)), int(draws.integers(1, 40))
    packed = packed_weight(weight, groups, tile=tile, row_block=row_block)
    assert error(convolved(packed, x, want, weight.shape[2:], **geometry), want) <= CLOSE


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (3, 2), (9, 12)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_padding_may_be_larger_than_the_kernel(isa, padding, kernel, stride):
    weight = sparse_matrix(8, 3 * kernel[0] * kernel[1], density=0.7).view(8, 3, *kernel)
    x = numbers(2, 3, 9, 8)
    geometry = {"stride": stride, "padding": padding}
    want = functional.conv2d(x.double(), weight.double(), **geometry)
    assert error(convolved(packed_weight(weight), x, want, kernel, **geometry), want) <= CLOSE


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_many_images_are_taken_in_turns_with_the_same_bits_for_any_threads(isa, stride):
    # More pixels than are laid out at once, by far.
    weight = sparse_matrix(5, 8 * 9, density=0.2).view(5, 8, 3, 3)
    x = numbers(7, 8, 100, 100)
    geometry = {"stride": stride, "padding": (1, 1)}
    want = functional.conv2d(x.double(), weight.double(), **geometry)
    packed = packed_weight(weight)
    got = convolved(packed, x, want, (3, 3), **geometry)
    assert error(got, want) <= CLOSE
    assert torch.equal(convolved(packed, x, want, (3, 3), threads=2, **geometry), got)
    assert torch.equal(convolved(packed, x, want, (3, 3), **geometry), got)


def test_an_image_that_is_large_by_itself(isa):
    weight = sparse_matrix(3, 2 * 25, density=0.3).view(3, 2, 5, 5)
    x = numbers(2, 2, 400, 401)
    want = functional.conv2d(x.double(), weight.double(), padding=2)
    got = convolved(packed_weight(weight), x, want, (5, 5), padding=(2, 2))
    assert error(got, want) <= CLOSE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scale_bias_and_activation_follow_the_sum(isa, activation):
    weight = sparse_matrix(40, 6 * 9, density=0.3, values=12).view(40, 6, 3, 3)
    x, scale, bias = numbers(3, 6, 11, 7), numbers(40, seed=1), numbers(40, seed=2)
    sums = functional.conv2d(x.double(), weight.double(), padding=1)
    want = sums * scale.double()[:, None, None] + bias.double()[:, None, None]
    want = TRUTHS[activation](want)
    got = convolved(
        packed_weight(weight),
        x,
        want,
        (3, 3),
        padding=(1, 1),
        scale=scale,
        bias=bias,
        activation=activation,
    )
    assert error(got, want) <= CLOSE


def test_weights_of_zeros_give_the_bias(isa):
    bias = numbers(9)
    want = bias[:, None, None].expand(2, 9, 6, 6)
    packed = packed_weight(torch.zeros(9, 4, 3, 3))
    got = convolved(packed, numbers(2, 4, 6, 6), want, (3, 3), padding=(1, 1), bias=bias)
    assert torch.equal(got, want)


def test_an_image_does_not_reach_into_its_neighbour(isa):
    # NaN in one image shows every pixel that another reads wrongly.
    weight = torch.ones(3, 2, 3, 3)
    x = torch.ones(3, 2, 5, 5)
    x[1] = torch.nan
    for geometry in ({"padding": (1, 1)}, {"padding": (2, 2)}, {"stride": (2, 2)}):
        want = functional.conv2d(x, weight, **geometry)
        got = convolved(packed_weight(weight), x, want, (3, 3), **geometry)
        assert torch.equal(got[[0, 2]], want[[0, 2]])
        assert got[1].isnan().equal(want[1].isnan())

"""Max pooling without indices, against torch's."""

import itertools

import pytest
import torch
from native_calls import numbers
from torch.nn import functional

from tersor import _native


def pooled(x, kernel, stride, padding, threads=1):
    """As torch.nn.functional.max_pool2d, for (N, C, H, W)."""
    shape = functional.max_pool2d(x, kernel, stride, padding).shape
    out = torch.full(shape, torch.nan)
    planes = x.shape[0] * x.shape[1]
    sides = (*x.shape[2:], *kernel, *stride, *padding)
    _native.max_pool(x.data_ptr(), planes, *sides, out.data_ptr(), threads)
    return out


KERNELS = [(1, 1), (2, 2), (3, 3), (2, 3), (5, 2), (4, 7)]
STRIDES = [(1, 1), (2, 2), (3, 2), (2, 5)]


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product(KERNELS, STRIDES)))
def test_windows_are_torchs(kernel, stride):
    x = numbers(2, 3, 13, 17)
    for padding in {(0, 0), (kernel[0] // 2, kernel[1] // 2)}:
        want = functional.max_pool2d(x, kernel, stride, padding)
        assert torch.equal(pooled(x, kernel, stride, padding), want)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_images_about_as_small_as_the_kernel(kernel, side):
    x = numbers(1, 2, side, side)
    want = functional.max_pool2d(x, kernel, 2, 1)
    assert torch.equal(pooled(x, kernel, (2, 2), (1, 1)), want)


@pytest.mark.parametrize(
    ("kernel", "stride"), [((2, 2), (2, 2)), ((3, 3), (1, 1)), ((3, 2), (2, 3))]
)
def test_nan_wins_wherever_it_stands_in_a_window(kernel, stride):
    x = numbers(1, 36, 6, 6)
    for plane in range(36):
        x[0, plane].view(-1)[plane] = torch.nan
    want = functional.max_pool2d(x, kernel, stride)
    assert want.isnan().any()
    assert torch.equal(pooled(x, kernel, stride, (0, 0)).nan_to_num(9e9), want.nan_to_num(9e9))


def test_padding_is_below_every_number():
    x = torch.full((1, 1, 4, 4), -torch.inf)
    x[0, 0, 0, 0] = -3e38
    want = functional.max_pool2d(x, 2, 2, 1)
    assert want.isinf().any()
    assert torch.equal(pooled(x, (2, 2), (2, 2), (1, 1)), want)


def test_threads_change_nothing():
    x = numbers(4, 8, 60, 60)
    want = functional.max_pool2d(x, 3, 2, 1)
    for threads in (1, 2, 5):
        assert torch.equal(pooled(x, (3, 3), (2, 2), (1, 1), threads), want)

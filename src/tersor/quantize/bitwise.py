"""Dot products of few-bit integers by logic and counting of ones: what kernels are checked by."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError

_ONES = torch.tensor([bin(byte).count("1") for byte in range(256)])


def popcount(packed: Tensor) -> Tensor:
    """The ones in the last dimension of packed bytes: (*, bytes) uint8 -> (*,) int64."""
    return _ONES.to(packed.device)[packed.long()].sum(-1)


def pack_bits(bits: Tensor) -> Tensor:
    """Zeros and ones, eight to a byte, the first lowest: (*, n) -> (*, ceil(n / 8)) uint8.

    >>> pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1, 1])).tolist()
    [1, 3]
    """
    missing = -bits.shape[-1] % 8
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, missing))
    weights = 2 ** torch.arange(8, device=bits.device)
    bytes_: Tensor = (padded.unflatten(-1, (-1, 8)).long() * weights).sum(-1)
    return bytes_.to(torch.uint8)


def bit_planes(codes: Tensor, bits: int) -> Tensor:
    """The bits of whole numbers, packed plane by plane: (*, n) -> (bits, *, ceil(n / 8)) uint8.

    Raises:
        ConfigError: a number does not fit into so many bits.
    """
    if bool((codes < 0).any()) or bool((codes >= 2**bits).any()):
        raise ConfigError(f"bit planes: a number is not from 0 to {2**bits - 1}")
    return torch.stack([pack_bits((codes.long() >> plane) & 1) for plane in range(bits)])


def bit_plane_dot(x: Tensor, y: Tensor, x_bits: int, y_bits: int) -> Tensor:
    """x . y = sum over m, k of 2**(m + k) * popcount(x_m AND y_k), over the last dimension.

    Args:
        x, y: whole numbers from 0 to 2**bits - 1, of shapes that broadcast.

    Source: Zhou et al. 2016 (DoReFa-Net), arXiv 1606.06160, eq. 3.

    >>> bit_plane_dot(torch.tensor([3, 1, 2]), torch.tensor([1, 0, 1]), 2, 1).item()
    5
    """
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for m, x_plane in enumerate(bit_planes(x, x_bits)):
        for k, y_plane in enumerate(bit_planes(y, y_bits)):
            total = total + (popcount(x_plane & y_plane) << (m + k))
    return total


def xnor_dot(x: Tensor, y: Tensor) -> Tensor:
    """x . y = n - 2 * popcount(x XOR y) of signs, over the last dimension.

    Args:
        x, y: -1 and 1, or any numbers whose signs are meant (0 counts as 1); of shapes that
            broadcast.

    Source: Rastegari et al. 2016 (XNOR-Net), arXiv 1603.05279, section 3.2.

    >>> xnor_dot(torch.tensor([1, -1, 1]), torch.tensor([1, 1, 1])).item()
    1
    """
    different = pack_bits(x >= 0) ^ pack_bits(y >= 0)
    return x.shape[-1] - 2 * popcount(different)

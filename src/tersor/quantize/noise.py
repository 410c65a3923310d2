"""Quantization noise: in each step a random part of the blocks is quantized, the rest is not."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError


def noisy_blocks(shape: torch.Size, share: float, block: int, generator: torch.Generator) -> Tensor:
    """Which entries are quantized: each block of `block` inputs of an output with chance `share`.

    Raises:
        ConfigError: the share is not within 0 to 1, or a block holds no entry.

    Source: Fan et al. 2020, arXiv 2004.07320, section 4.

    >>> draw = torch.Generator().manual_seed(0)
    >>> noisy_blocks(torch.Size([2, 6]), 0.5, 3, draw).int().tolist()
    [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    """
    check_noise(share, block)
    rows = shape[0] if shape else 1
    columns = max(shape.numel() // max(rows, 1), 1)
    drawn = torch.rand(rows, -(-columns // block), generator=generator) < share
    return drawn.repeat_interleave(block, 1)[:, :columns].reshape(shape)


def check_noise(share: float, block: int) -> None:
    """Check the two settings.

    Raises:
        ConfigError: the share is not within 0 to 1, or a block holds no entry.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"noise: {share!r}; expected 0 <= noise <= 1, the share of the blocks")
    if not isinstance(block, int) or block < 1:
        raise ConfigError(f"block: {block!r}; expected 1 or more weights")

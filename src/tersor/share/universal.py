"""One block applied again and again: depth without further parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError


class UniversalTransformer(nn.Module):
    """A block that is applied `steps` times, each time with signals of position and step.

    H_t = block(H_{t-1} + signal(positions, t)),   t = 1 to steps

    With a post-norm `nn.TransformerEncoderLayer` as block this is the paper's recurrence; any
    module that gives the shape it takes will do.

    Args:
        block: inputs `(N, T, width)` to the same shape; further arguments are handed on.
        width: of the last dimension, even.
        steps: how often the block is applied, 1 or more.

    Raises:
        ConfigError: the width is odd, or `steps` is below 1.

    Source: Dehghani, Gouws, Vinyals, Uszkoreit and Kaiser 2018, arXiv 1807.03819, eq. 4 to 7;
        without adaptive halting. The sines are in the first half of the width and the cosines in
        the second, as in their code; the paper has them in turns.

    >>> block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = UniversalTransformer(block, 8, steps=6)
    >>> model(torch.zeros(2, 5, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 5, 8]), 600)
    """

    def __init__(self, block: nn.Module, width: int, *, steps: int = 6) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ConfigError(f"width: {width}; expected an even number, 2 or more")
        if steps < 1:
            raise ConfigError(f"steps: {steps}; expected 1 or more")
        self.block, self.width, self.steps = block, width, steps

    def forward(self, inputs: Tensor, *arguments: object, **named: object) -> Tensor:
        length = inputs.shape[-2]
        hidden = inputs
        for step in range(1, self.steps + 1):
            signal = timing_signal(length, step, self.width)
            hidden = self.block(hidden + signal.to(hidden), *arguments, **named)
        return hidden


def timing_signal(length: int, step: int, width: int) -> Tensor:
    """sin and cos of position and of step, added: (length, width) float64.

    >>> timing_signal(2, 1, 4)[0].tolist() == timing_signal(1, 1, 4)[0].tolist()
    True
    """
    half = width // 2
    scales = torch.exp(torch.arange(half, dtype=torch.float64) * (-2 * math.log(10_000) / width))
    positions = torch.arange(1, length + 1, dtype=torch.float64)[:, None] * scales
    depths = step * scales
    sines = positions.sin() + depths.sin()
    cosines = positions.cos() + depths.cos()
    return torch.cat([sines, cosines], dim=1)

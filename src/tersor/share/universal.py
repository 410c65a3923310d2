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

    With `halting` each position decides how many steps it takes. A linear layer gives it a
    probability p_t = sigmoid(halt(H_{t-1} + signal)) before step t; it stops at the first step N
    at which p_1 + .. + p_N exceeds `halting`, at the latest at `steps`. Its output is the mean of
    H_1 to H_N weighted by p_1 to p_{N-1} and R = 1 - (p_1 + .. + p_{N-1}); the others go on
    seeing its H_N.

    Args:
        block: inputs `(N, T, width)` to the same shape; further arguments are handed on.
        width: of the last dimension, even.
        steps: how often the block is applied, 1 or more; with `halting` at the most.
        halting: 0 < halting < 1, 0.99 in the paper; None: all positions take all steps.

    Attributes:
        ponder: with `halting` the mean of N + R over the positions of the last call, whose
            gradient is that of R: add it, times a small number, to the loss.
        taken: with `halting` N of each position of the last call, int64.

    Raises:
        ConfigError: the width is odd, `steps` is below 1, or `halting` is out of range.

    Source: Dehghani, Gouws, Vinyals, Uszkoreit and Kaiser 2018, arXiv 1807.03819, eq. 4 to 7;
        halting: Graves 2016, arXiv 1603.08983, eq. 5 to 12, at each position as in their
        appendix C (whose code mixes the states by a running mean with the same weights, in which
        earlier states count less than theirs). The sines are in the first half of the width and
        the cosines in the second, as in their code; the paper has them in turns.

    >>> block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = UniversalTransformer(block, 8, steps=6)
    >>> model(torch.zeros(2, 5, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 5, 8]), 600)
    """

    def __init__(
        self, block: nn.Module, width: int, *, steps: int = 6, halting: float | None = None
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ConfigError(f"width: {width}; expected an even number, 2 or more")
        if steps < 1:
            raise ConfigError(f"steps: {steps}; expected 1 or more")
        if halting is not None and not 0 < halting < 1:
            raise ConfigError(f"halting: {halting}; expected 0 < halting < 1, or None")
        self.block, self.width, self.steps, self.halting = block, width, steps, halting
        self.ponder: Tensor | None = None
        self.taken: Tensor | None = None
        if halting is not None:
            first = next(block.parameters(), torch.zeros(()))
            self.halt = nn.Linear(width, 1, device=first.device, dtype=first.dtype)
            nn.init.ones_(self.halt.bias)  # few steps at first, as in their code

    def forward(self, inputs: Tensor, *arguments: object, **named: object) -> Tensor:
        if self.halting is not None:
            return self._halting(inputs, self.halting, *arguments, **named)
        hidden = inputs
        for step in range(1, self.steps + 1):
            hidden = self.block(self._signalled(hidden, step), *arguments, **named)
        return hidden

    def _signalled(self, hidden: Tensor, step: int) -> Tensor:
        return hidden + timing_signal(hidden.shape[-2], step, self.width).to(hidden)

    def _halting(self, inputs: Tensor, most: float, *arguments: object, **named: object) -> Tensor:
        hidden, output = inputs, torch.zeros_like(inputs)
        spent = inputs.new_zeros(inputs.shape[:-1])  # p_1 + .. of each position
        running = torch.ones_like(spent, dtype=torch.bool)
        rest, taken = spent, running.long() * 0
        for step in range(1, self.steps + 1):
            signalled = self._signalled(hidden, step)
            chance = self.halt(signalled)[..., 0].sigmoid()
            last = running & ((spent + chance > most) | (step == self.steps))
            weight = torch.where(last, 1 - spent, chance) * running
            hidden = torch.where(
                running[..., None], self.block(signalled, *arguments, **named), hidden
            )
            output = output + weight[..., None] * hidden
            rest, taken = torch.where(last, weight, rest), taken + running
            spent, running = spent + weight, running & ~last
            if not running.any():
                break
        self.ponder, self.taken = (taken + rest).mean(), taken
        return output


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

"""L0 regularisation: gates with a probability of being exactly zero that can be differentiated.

s = sigmoid((log u - log(1 - u) + log_alpha) / BETA),  u uniform;   gate = clip(s (Z - G) + G, 0, 1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.weights import Selectors
from tersor.prune.learned.groups import Grouped, grouped
from tersor.prune.learned.layers import maskable, prepared
from tersor.prune.patterns import Pattern

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and the ends to which the sigmoid is stretched, before it is cut to [0, 1]."""


def hard_concrete_(
    model: nn.Module,
    *,
    pattern: str | Pattern = "element",
    open_at_start: float = 0.9,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Put a hard concrete gate before each weight, or each group of weights, in place.

    In training mode the gates are drawn at each forward pass, from torch's global generator as a
    Dropout's masks are; in eval mode they are clip(sigmoid(log_alpha) (Z - G) + G, 0, 1). Train
    on `loss + strength * expected_l0(model)`, then `finalize_(model)`.

    Args:
        pattern: what has one gate: "element", "row", "channel", "kernel", "4x1", or a function.
        open_at_start: the probability that the relaxed gate s is above one half, at the start.
        select, ignore: which weights take part; of them those of Linear and Conv2d.

    Returns:
        A report: how many gates each weight has, and what was skipped.

    Raises:
        ConfigError: `open_at_start` is not between 0 and 1, the pattern is unknown, or no
            weight can take part.

    Source: Louizos, Welling and Kingma 2018, arXiv 1712.01312, eq. 10 to 13 and their BETA, GAMMA,
        ZETA. Differences: log_alpha starts at one value, without their jitter of 0.01, as the
        gates' own noise tells them apart; one draw of the gates serves a whole batch.

    >>> model = nn.Linear(20, 10)
    >>> _ = hard_concrete_(model, pattern="row", open_at_start=0.5)
    >>> round(expected_l0(model).item(), 1)  # of 200
    166.4
    """
    if not 0 < open_at_start < 1:
        raise ConfigError(f"open_at_start: {open_at_start}; expected between 0 and 1")
    weights, skipped = maskable(model, select=select, ignore=ignore)
    found, unfit = grouped(weights, pattern)
    start = math.log(open_at_start / (1 - open_at_start))
    rows = []
    for part in found:
        rows.append((part.weight, part.count))
        gate = HardConcrete(part, start)
        parametrize.register_parametrization(part.weight.module, "weight", gate)
    return prepared("Hard concrete gates", rows, skipped | unfit, column="gates")


def expected_l0(model: nn.Module) -> Tensor:
    """How many weights are expected to be not zero, over all that have a gate.

    sum over gates of size of the group * sigmoid(log_alpha - BETA log(-GAMMA / ZETA))

    Raises:
        ConfigError: no weight has a gate.

    Source: as `hard_concrete_`, eq. 12.
    """
    gates = [module for module in model.modules() if isinstance(module, HardConcrete)]
    if not gates:
        raise ConfigError(f"{type(model).__name__} has no gates; call hard_concrete_ first")
    return torch.stack([gate.size * gate.open().sum() for gate in gates]).sum()


class HardConcrete(nn.Module):
    """The parametrization that `hard_concrete_` puts on a weight.

    Args:
        groups: of the weight.
        log_alpha: of every gate at the start.
    """

    def __init__(self, groups: Grouped, log_alpha: float) -> None:
        super().__init__()
        shape = [1 if dim in groups.dims else n for dim, n in enumerate(groups.shape)]
        self.log_alpha = nn.Parameter(groups.weight.parameter.detach().new_full(shape, log_alpha))
        self.shape, self.size = groups.shape, groups.size

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self._spread(self.gate()).reshape(weight.shape)

    def gate(self) -> Tensor:
        """One draw in training mode, the deterministic gate in eval mode."""
        logits: Tensor = self.log_alpha
        if self.training:
            # Away from the ends, where the logarithm is infinite; float32 has 24 bits.
            noise = torch.rand_like(logits).clamp_(1e-6, 1 - 1e-6)
            logits = (noise.log() - (-noise).log1p() + logits) / BETA
        return (logits.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def open(self) -> Tensor:
        """The probability that each gate is not exactly zero."""
        return (self.log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()

    def kept(self) -> Tensor:
        """True where the gate of eval mode is not zero."""
        return self._spread(self.log_alpha.detach().sigmoid() * (ZETA - GAMMA) + GAMMA > 0)

    def thaw(self, layer: nn.Module, name: str) -> None:
        """Nothing was frozen."""

    def _spread(self, values: Tensor) -> Tensor:
        """A value for each group as one for each weight, in the shape of the groups."""
        return values.expand(self.shape)

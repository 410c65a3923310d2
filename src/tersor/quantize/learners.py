"""How one weight is trained while the network sees a quantized one: hidden weights, and a rule.

A rule turns the hidden weights into values before the network sees them, and the gradient of the
values into that of the hidden weights (and of what else it learns).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.tables import look_up
from tersor.quantize.affine import AffineGrid
from tersor.quantize.binary import BinaryGrid
from tersor.quantize.dorefa import DoReFa, squeezed
from tersor.quantize.quantizer import Grid, GridQuantizer, Quantizer, rounded
from tersor.quantize.rounding import stochastic
from tersor.quantize.straight_through import BACKWARDS, Backward


@dataclass(frozen=True)
class Moment:
    """What a rule may use of the step that is being made.

    Args:
        step: optimizer steps done.
        generator: draws what is random in this step; None: nothing is to be random.
        curvature: of the loss, for each entry: the root of Adam's second moment; None before the
            first step, or without Adam.
    """

    step: int = 0
    generator: torch.Generator | None = None
    curvature: Tensor | None = None


class Learner(Protocol):
    """The rule at work on one weight, (out, in, *kernel)."""

    learned: dict[str, nn.Parameter]
    """What is trained besides the weights."""

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        """What the network sees instead of the hidden weights; +0.0 where not kept."""
        ...

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the hidden weights; those of `learned` are put into their `.grad`."""
        ...

    def restrain(self, latent: Tensor) -> None:
        """After a step: put hidden weights and what is learned back into their range, in place."""
        ...

    def finished(self, step: int) -> bool:
        """Whether all values are on their grid from this step on."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides the hidden weights."""
        ...

    def load(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class Training(Protocol):
    """A rule with its settings, a frozen dataclass."""

    @property
    def bits(self) -> float: ...

    def start(self, weight: Tensor, kept: Tensor) -> Learner:
        """The rule at work on a weight as it is before training."""
        ...


@dataclass(frozen=True)
class StraightThrough:
    """Rounded forward; backward as if nothing had been, within the grid's range.

    dL/dw = dL/dq * factor(w); the grid is found anew after each step.

    Args:
        quantizer: any quantizer of this package, or of your own.
        backward: a name of `BACKWARDS` or a function; None is "clipped", and "identity" for two
            bits and fewer, where most weights lie outside the range of the values. DoReFa has its
            own: the derivative of its tanh and maximum.
        clip: hidden weights are kept within plus and minus this; None does not.
        rounding: "nearest", or "stochastic" (binary and affine grids) until training ends.
        curvature: errors count by Adam's second moment: loss-aware training.

    Raises:
        ConfigError: a setting is unknown, or the quantizer has no use for it.

    Source: Bengio, Leonard and Courville 2013, arXiv 1308.3432, section 4; loss-aware: Hou, Yao
    and Kwok 2017, arXiv 1611.01600, with the hidden weights of their algorithm 1.
    """

    quantizer: Quantizer
    backward: str | Backward | None = None
    clip: float | None = None
    rounding: str = "nearest"
    curvature: bool = False

    def __post_init__(self) -> None:
        if self.backward is not None:
            look_up("backward", self.backward, BACKWARDS)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip: {self.clip!r}; expected a number above 0, or None")
        if self.rounding not in ("nearest", "stochastic"):
            known = did_you_mean(str(self.rounding), ("nearest", "stochastic"))
            raise ConfigError(f"rounding {self.rounding!r}: {known}")
        if self.curvature and not self.quantizer.uses_importance:
            raise ConfigError(
                f"curvature: {type(self.quantizer).__name__} does not use importance; "
                "expected a quantizer that does, as Binary() or Ternary(method='exact')"
            )

    @property
    def bits(self) -> float:
        return self.quantizer.bits

    def start(self, weight: Tensor, kept: Tensor) -> Learner:
        learner = StraightThroughLearner(self)
        learner.values(weight, kept, Moment(generator=torch.Generator().manual_seed(0)))
        return learner


class StraightThroughLearner:
    """`StraightThrough` at work; the bounds are those of the last values."""

    def __init__(self, training: StraightThrough) -> None:
        self.learned: dict[str, nn.Parameter] = {}
        self._training, self._quantizer = training, training.quantizer
        few = self._quantizer.bits <= 2
        chosen = training.backward or ("identity" if few else "clipped")
        self._rule = look_up("backward", chosen, BACKWARDS)
        self._bounds: tuple[Tensor, Tensor] | None = None

    def values(self, latent: Tensor, kept: Tensor, moment: Moment) -> Tensor:
        importance = moment.curvature if self._training.curvature else None
        if not isinstance(self._quantizer, GridQuantizer):
            return self._quantizer(latent, kept, importance)
        grid = self._quantizer.fit(latent, kept, importance)
        self._bounds = grid.bounds()
        if self._training.rounding == "stochastic" and moment.generator is not None:
            values = _stochastic(grid, latent, moment.generator)
            return torch.where(kept, values, 0.0)
        return rounded(grid, latent, kept)

    def backward(self, latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
        if isinstance(self._quantizer, DoReFa) and self._training.backward is None:
            return gradient if self._quantizer.bits == 1 else _through_tanh(latent, kept, gradient)
        if self._bounds is None:
            return gradient
        return gradient * self._rule(latent, *self._bounds)

    def restrain(self, latent: Tensor) -> None:
        if self._training.clip is not None:
            latent.clamp_(-self._training.clip, self._training.clip)

    def finished(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Tensor]:
        return {} if self._bounds is None else dict(zip(("low", "high"), self._bounds, strict=True))

    def load(self, state: dict[str, Tensor]) -> None:
        if state:
            self._bounds = state["low"], state["high"]


def _stochastic(grid: Grid, latent: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(grid, BinaryGrid):
        return grid.stochastic(latent, generator)
    if isinstance(grid, AffineGrid):
        return grid.round(latent, partial(stochastic, generator=generator))
    raise ConfigError(
        f"rounding 'stochastic': {type(grid).__name__} has none; expected Binary or Affine"
    )


def _through_tanh(latent: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        inside = torch.where(kept, latent, 0.0).requires_grad_()
        (found,) = torch.autograd.grad(squeezed(inside), inside, gradient)
    return found

"""The published ways of training with quantized weights, by name."""

from __future__ import annotations

from collections.abc import Callable

from tersor.quantize.affine import Affine
from tersor.quantize.binary import Binary
from tersor.quantize.dorefa import DoReFa
from tersor.quantize.incremental import Incremental
from tersor.quantize.learned_levels import LearnedLevels
from tersor.quantize.learned_step import LearnedStep
from tersor.quantize.learners import StraightThrough, Training
from tersor.quantize.quantizer import Quantizer
from tersor.quantize.soft import SoftStair
from tersor.quantize.ternary import Ternary
from tersor.quantize.trained_ternary import TrainedTernary


def affine(bits: int = 4, granularity: str = "channel", backward: str = "clipped") -> Training:
    """Quantization-aware training with an even grid whose range follows the weights.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3 (weights; there 8 bits).
    """
    return StraightThrough(Affine(bits, granularity), backward)


def binary_connect(scale: float | None = None, stochastic: bool = False) -> Training:
    """Signs; hidden weights are clipped to [-1, 1].

    Source: Courbariaux, Bengio and David 2015, arXiv 1511.00363. Their scale is 1; without one
    here it is the mean |w| of each output, for networks without normalisation.
    """
    rounding = "stochastic" if stochastic else "nearest"
    return StraightThrough(Binary(scale=scale), "identity", clip=1.0, rounding=rounding)


def xnor(granularity: str = "channel") -> Training:
    """Signs times the mean |w| of each output (binary weight networks); weights alone.

    Source: Rastegari, Ordonez, Redmon and Farhadi 2016, arXiv 1603.05279. The gradient passes
    straight through (its term for the scale, 1 / n, is left out).
    """
    return StraightThrough(Binary(granularity), "identity", clip=1.0)


def twn(granularity: str = "tensor", method: str = "rule") -> Training:
    """Ternary weight networks. Source: Li, Zhang and Liu 2016, arXiv 1605.04711."""
    return StraightThrough(Ternary(granularity, method), "identity")


def dorefa(bits: int = 2) -> Training:
    """DoReFa's weights; `QuantizedGradients` beside it for gradients.

    Source: Zhou et al. 2016, arXiv 1606.06160.
    """
    return StraightThrough(DoReFa(bits))


def loss_aware(quantizer: Quantizer | None = None) -> Training:
    """LAB: signs whose scale counts each weight by Adam's second moment; needs Adam.

    Args:
        quantizer: that uses importance; default Binary(granularity="tensor"), the paper's one
            scale a layer. Ternary(method="exact") gives loss-aware ternarization.

    Source: Hou, Yao and Kwok 2017, arXiv 1611.01600; Hou and Kwok 2018, arXiv 1802.08635.
    """
    return StraightThrough(quantizer or Binary("tensor"), "identity", curvature=True)


TRAININGS: dict[str, Callable[..., Training]] = {
    "affine": affine,
    "binary_connect": binary_connect,
    "xnor": xnor,
    "twn": twn,
    "ttq": TrainedTernary,
    "inq": Incremental,
    "dorefa": dorefa,
    "lab": loss_aware,
    "lsq": LearnedStep,
    "dsq": SoftStair,
    "levels": LearnedLevels,
}
"""Name of a training to what makes it; only "inq" needs a setting, the steps between its shares."""


def as_training(value: object) -> Training | None:
    """A training as it is, a quantizer as one that is trained straight through; else None."""
    if isinstance(value, Training) and not isinstance(value, type):
        return value
    if isinstance(value, Quantizer) and not isinstance(value, type):
        return StraightThrough(value)
    return None

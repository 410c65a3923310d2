"""The steps of a recipe, as settings: what each may be told, and in which range."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tersor.factorize import FACTORIZERS
from tersor.prune import ALLOCATIONS, CRITERIA, REPAIRS, SCHEDULES, pattern_of
from tersor.quantize import QUANTIZERS, SENSITIVITIES, TRAININGS
from tersor.share import SHARINGS
from tersor.train import Training


def _known(names: Collection[str | None], value: str | None) -> str | None:
    if value not in names:
        raise ValueError("unknown")
    return value


def _in_range(low: float, high: float, value: Any) -> Any:
    for number in value.values() if isinstance(value, dict) else [value]:
        if number is not None and not low <= number <= high:
            raise ValueError("out of range")
    return value


def _a_pattern(value: str) -> str:
    pattern_of(value)
    return value


_TINY = 1e-12  # below any density that keeps a weight
_SELECTORS = "a list of names of weights or modules, class names, or 're:pattern'"
_EPOCHS = "passes over the training data, 0 (no training) or more"
_SETTINGS = "a mapping of further settings of the method to their values"

Density = Annotated[float | dict[str, float] | None, AfterValidator(partial(_in_range, _TINY, 1))]


class Train(Training):
    """Train the network; what it gives is the reference that the result is compared with."""


class Prune(Training):
    """Prune: with epochs while training, by a `GradualPruner`; without, at once, by `prune_`."""

    density: Density = Field(
        default=None,
        description="0 < density <= 1, the share of weights that are kept "
        "(or a mapping of selectors to such densities; left out only for a pattern N:M)",
    )
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    criterion: Annotated[str, AfterValidator(partial(_known, CRITERIA))] = Field(
        default="magnitude", description=f"one of: {', '.join(CRITERIA)}"
    )
    pattern: Annotated[str, AfterValidator(_a_pattern)] = Field(
        default="element",
        description="element, row, channel, kernel, head, layer, N:M (as 2:4) or HxW (as 4x1)",
    )
    allocation: Annotated[str, AfterValidator(partial(_known, ALLOCATIONS))] = Field(
        default="global", description=f"one of: {', '.join(ALLOCATIONS)}"
    )
    schedule: Annotated[str, AfterValidator(partial(_known, SCHEDULES))] = Field(
        default="cubic", description=f"one of: {', '.join(SCHEDULES)}"
    )
    ramp: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="0 < ramp <= 1, the share of the steps in which the density falls",
    )
    rounds: int | None = Field(
        default=None,
        ge=1,
        description="prunings, 1 or more: evenly spaced in the ramp (default 100), "
        "or one after the other without epochs (default 1)",
    )
    repair: Annotated[str | None, AfterValidator(partial(_known, (None, *REPAIRS)))] = Field(
        default=None, description=f"one of: {', '.join(REPAIRS)} (without epochs)"
    )
    batches: int = Field(
        default=1,
        ge=1,
        description="training batches that criterion and repair look at, 1 or more",
    )
    select: list[str] = Field(default=[], description=_SELECTORS)
    ignore: list[str] = Field(default=[], description=_SELECTORS)


class Quantize(Training):
    """Put weights on few values; with epochs, train them so.

    Codebooks of k-means and of subvectors are trained as shared values, other quantizers by
    gradients that pass straight through them; or by the rule that `training` names.
    """

    method: Annotated[str, AfterValidator(partial(_known, QUANTIZERS))] = Field(
        default="kmeans", description=f"one of: {', '.join(QUANTIZERS)}"
    )
    bits: Annotated[int | dict[str, int] | None, AfterValidator(partial(_in_range, 1, 16))] = Field(
        default=None,
        description="bits of a code, 1 to 16 (or a mapping of selectors to such bits; default: "
        "the method's)",
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        le=16,
        description="bits of a code on average, above 0 and at most 16: each weight gets one of "
        "`widths`, by `sensitivity` (instead of bits)",
    )
    widths: list[int] = Field(
        default=[2, 3, 4, 6, 8],
        min_length=1,
        description="a list of bits to choose from, with a budget",
    )
    sensitivity: Annotated[str, AfterValidator(partial(_known, SENSITIVITIES))] = Field(
        default="loss", description=f"one of: {', '.join(SENSITIVITIES)} (with a budget)"
    )
    settings: dict[str, Any] = Field(default={}, description=_SETTINGS)
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    training: Annotated[str | None, AfterValidator(partial(_known, (None, *TRAININGS)))] = Field(
        default=None, description=f"one of: {', '.join(TRAININGS)} (with epochs, instead of method)"
    )
    rounding: Literal["nearest", "gptq"] = Field(
        default="nearest", description="one of: nearest, gptq (which looks at training batches)"
    )
    activations: int | None = Field(
        default=None,
        ge=2,
        le=16,
        description="bits of what comes into the layers, 2 to 16 (simulated; default: floats)",
    )
    fold: bool = Field(
        default=False,
        description="true or false: first make batch norms part of the layers before them",
    )
    equalize: bool = Field(
        default=False,
        description="true or false: first scale channels between layers so that ranges are even",
    )
    correct_biases: bool = Field(
        default=False,
        description="true or false: take the mean error of outputs from the biases (without "
        "epochs)",
    )
    batches: int = Field(
        default=8,
        ge=1,
        description="training batches that calibration, gptq, biases and sensitivity look at, "
        "1 or more",
    )
    select: list[str] = Field(default=[], description=_SELECTORS)
    ignore: list[str] = Field(default=[], description=_SELECTORS)


class Share(Training):
    """Let several weights be one; with epochs, train the network afterwards."""

    method: Annotated[str, AfterValidator(partial(_known, SHARINGS))] = Field(
        description=f"one of: {', '.join(SHARINGS)}"
    )
    settings: dict[str, Any] = Field(default={}, description=_SETTINGS)
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    batches: int = Field(
        default=8, ge=1, description="training batches that a method looks at, 1 or more"
    )
    select: list[str] = Field(default=[], description=_SELECTORS)
    ignore: list[str] = Field(default=[], description=_SELECTORS)


class Factorize(Training):
    """Replace layers by products of smaller ones; with epochs, train the network afterwards."""

    method: Annotated[str, AfterValidator(partial(_known, FACTORIZERS))] = Field(
        default="svd", description=f"one of: {', '.join(FACTORIZERS)}"
    )
    settings: dict[str, Any] = Field(default={}, description=_SETTINGS)
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    batches: int = Field(
        default=8,
        ge=1,
        description="training batches that a method looks at that needs inputs, 1 or more",
    )
    select: list[str] = Field(default=[], description=_SELECTORS)
    ignore: list[str] = Field(default=[], description=_SELECTORS)


Step = Train | Prune | Quantize | Share | Factorize

STEPS: dict[str, type[Step]] = {
    "train": Train,
    "prune": Prune,
    "quantize": Quantize,
    "share": Share,
    "factorize": Factorize,
}
"""Name of a step in a recipe to its settings."""


def kind_of(step: Step) -> str:
    """The name of a step in a recipe."""
    return type(step).__name__.lower()

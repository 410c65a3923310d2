"""What can be known to be wrong with a recipe before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tersor.compress.order import check_order
from tersor.compress.quantizing import check_quantize
from tersor.compress.recipe import Recipe
from tersor.compress.sharing import check_factorize, check_share
from tersor.compress.steps import Factorize, Prune, Quantize, Share, Step
from tersor.core.errors import ConfigError
from tersor.prune.transform import resolve


def check(model: nn.Module, recipe: Recipe) -> None:
    """Refuse what cannot work: steps that undo each other, settings of methods, names of layers.

    What an earlier step makes of the structure is not known yet; a later step is then checked by
    its settings alone, and by the rest when it is its turn.

    Raises:
        ConfigError: which step, and why.
    """
    known: nn.Module | None = model
    before: list[Step] = []
    for step in recipe.steps:
        if type(step) in CHECKS:
            CHECKS[type(step)](known, step)
        if isinstance(step, Quantize) and (step.fold or step.equalize):
            _check_scaling(before)
        if isinstance(step, Share | Factorize):
            known = None
        before.append(step)
    check_order(model, recipe.steps)


def check_prune(model: nn.Module | None, step: Prune) -> None:
    """Refuse a density, a pattern or selectors that do not fit the network."""
    if step.repair is not None and step.epochs:
        raise ConfigError(
            f"prune: repair {step.repair!r} is for pruning at once; expected no epochs, which "
            "train the weights that are kept"
        )
    if model is not None:
        options = {"select": step.select or None, "ignore": step.ignore or None}
        resolve(model, step.density, pattern=step.pattern, **options)


CHECKS: dict[type[Step], Callable[[nn.Module | None, Any], None]] = {
    Prune: check_prune,
    Quantize: check_quantize,
    Share: check_share,
    Factorize: check_factorize,
}
"""Settings of a step to what checks them, with the network if it is known."""


def _check_scaling(before: list[Step]) -> None:
    for step in before:
        if isinstance(step, Quantize | Share):
            raise ConfigError(
                "quantize: fold and equalize scale whole layers, and an earlier step "
                f"{type(step).__name__.lower()!r} has given weights their values. Do it there"
            )

"""The rules that a drop-and-grow loop is made of: how many go, which come, and to which layer.

What goes is always the smallest |w| of a layer, so a drop rule only counts. A grow rule scores all
places of a layer. A share rule says how the places that became free are dealt out to the layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.prune.dynamic import optimizer_state


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight tensor as the rules see it.

    Args:
        name: qualified name of the weight.
        parameter: the weight itself; +0.0 wherever it is not active.
        mask: bool, of the weight's shape, True = active, before anything is dropped.
        active: how many are active.
        optimizer: the one that steps it.
    """

    name: str
    parameter: nn.Parameter
    mask: Tensor
    active: int
    optimizer: Optimizer

    def momentum(self) -> Tensor:
        """|momentum| of every place, of the weight's shape."""
        return optimizer_state.momentum(self.optimizer, self.parameter, self.name).abs()


Memory = dict[str, float]
"""What a drop rule remembers from one update to the next; part of the method's state."""

Drop = Callable[[Sequence[Layer], float, Memory], dict[str, int]]
"""Layers, the share of the active weights that is to go, memory: how many of each layer go."""

Share = Callable[[Sequence[Layer], Mapping[str, int]], dict[str, float]]
"""Layers, how many of each go: in which proportion the layers get new ones."""


@dataclass(frozen=True)
class Grow:
    """Which places become active.

    Args:
        scores: of every place of a layer, of the weight's shape, higher = sooner; the generator
            is the same on all processes.
        instead_of_step: the rule looks at the gradient. The update then takes the place of an
            optimizer step: the gradient is spent on it.
        needs_momentum: the rule looks at the optimizer's momentum.
    """

    scores: Callable[[Layer, torch.Generator], Tensor]
    instead_of_step: bool = False
    needs_momentum: bool = False


def magnitude(layers: Sequence[Layer], fraction: float, memory: Memory) -> dict[str, int]:
    """The same share of the active weights of every layer, rounded down: the smallest |w|."""
    return {layer.name: int(fraction * layer.active) for layer in layers}


def threshold(layers: Sequence[Layer], fraction: float, memory: Memory) -> dict[str, int]:
    """All weights with |w| < H, one H for all layers, that follows the share that is to go.

    H is 1e-3 at first. When fewer than 0.9 of what was to go went, it is doubled for the next
    time, and when more than 1.1 of it, halved.

    Source: Mostafa and Wang 2019, arXiv 1902.05967, algorithm 1, delta = 0.1. Other than there, a
    layer keeps its largest weight: one that is empty would stay empty for ever.
    """
    bound = memory.setdefault("threshold", 1e-3)
    counts = {}
    for layer in layers:
        below = int(((layer.parameter.detach().abs() < bound) & layer.mask).sum())
        counts[layer.name] = max(min(below, layer.active - 1), 0)
    wanted = fraction * sum(layer.active for layer in layers)
    reached = sum(counts.values())
    if reached < 0.9 * wanted:
        memory["threshold"] = 2 * bound
    elif reached > 1.1 * wanted:
        memory["threshold"] = bound / 2
    return counts


def random(layer: Layer, generator: torch.Generator) -> Tensor:
    """Any place that was not active, all with the same chance; then those that were just dropped.

    Source: Mocanu et al. 2018, arXiv 1707.04780, algorithm 1.
    """
    draws = torch.rand(layer.mask.shape, generator=generator).to(layer.mask.device)
    return draws.sub_(layer.mask.to(draws.dtype))


def gradient(layer: Layer, generator: torch.Generator) -> Tensor:
    """The largest |dL/dw|, of the loss as a function of all weights, also of those that are zero.

    Source: Evci, Gale, Menick, Castro and Elsen 2020, arXiv 1911.11134, section 3, (4).
    """
    assert layer.parameter.grad is not None  # the loop leaves out what has none
    return layer.parameter.grad.abs()


def momentum(layer: Layer, generator: torch.Generator) -> Tensor:
    """The largest |momentum|: a gradient over many batches.

    Source: Dettmers and Zettlemoyer 2019, arXiv 1907.04840, section 3.
    """
    return layer.momentum()


def own(layers: Sequence[Layer], dropped: Mapping[str, int]) -> dict[str, float]:
    """Each layer grows as many as it dropped: the counts of the layers never change."""
    return {layer.name: dropped[layer.name] for layer in layers}


def survivors(layers: Sequence[Layer], dropped: Mapping[str, int]) -> dict[str, float]:
    """In proportion to the weights that a layer has left.

    Source: Mostafa and Wang 2019, arXiv 1902.05967, algorithm 1.
    """
    return {layer.name: layer.active - dropped[layer.name] for layer in layers}


def mean_momentum(layers: Sequence[Layer], dropped: Mapping[str, int]) -> dict[str, float]:
    """In proportion to the mean |momentum| of a layer's active weights.

    Source: Dettmers and Zettlemoyer 2019, arXiv 1907.04840, section 3.
    """
    return {
        layer.name: float(layer.momentum().mul_(layer.mask).sum(dtype=torch.float64))
        / max(layer.active, 1)
        for layer in layers
    }


DROPS: dict[str, Drop] = {f.__name__: f for f in (magnitude, threshold)}

GROWS: dict[str, Grow] = {
    "random": Grow(random),
    "gradient": Grow(gradient, instead_of_step=True),
    "momentum": Grow(momentum, needs_momentum=True),
}

SHARES: dict[str, Share] = {f.__name__: f for f in (own, survivors, mean_momentum)}


def cosine(step: int, *, end: int, initial: float) -> float:
    """The share of the active weights that goes at a step: from `initial` at 0 to 0 at `end`.

    f = initial / 2 * (1 + cos(pi * step / end))

    Source: Dettmers and Zettlemoyer 2019, arXiv 1907.04840; Evci et al. 2020, arXiv 1911.11134,
    section 3, (2).

    >>> [round(cosine(step, end=100, initial=0.3), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """
    return initial / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0

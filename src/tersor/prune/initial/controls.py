"""Controls: what is left of a pruning's merit when one part of it is taken away.

If a network trains as well with shuffled masks, the method only chose how many weights each layer
keeps; with new weights, it did not need those that it scored; with inverted scores, it chose
nothing. A result of pruning before training says something beside these alone.

Source: Frankle, Dziugaite, Roy and Carbin 2021, arXiv 2009.08576, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.seeding import generator, rng_state, seed_everything, set_rng_state
from tersor.core.tables import look_up
from tersor.prune.criteria import CRITERIA
from tersor.prune.initial.initialisers import Initialiser, initialise_
from tersor.prune.scoring import Criterion, Lazily, Scores, ScoringData


def shuffled(masks: MaskSet, *, seed: int) -> MaskSet:
    """Masks that keep as many weights of each tensor, at random places.

    >>> masks = MaskSet({"weight": torch.arange(8).view(2, 4) < 3})
    >>> other = shuffled(masks, seed=0)
    >>> other.kept, torch.equal(other["weight"], masks["weight"])
    (3, False)
    """
    mixed = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator(seed, "shuffled", name))
        mixed[name] = mask.flatten()[order.to(mask.device)].view(mask.shape)
    return MaskSet(mixed)


def redraw_(model: nn.Module, *, seed: int, initialiser: Initialiser | None = None) -> None:
    """Give a model a second, independent draw of its first weights, in place.

    The global random generators are left as they were. Masks are not applied; do it afterwards.

    Args:
        model: all its parameters and buffers become as new.
        seed: the same seed gives the same weights.
        initialiser: as for `initialise_`, which is what happens then; without it every module
            draws as it did when it was made (`reset_parameters`).

    Raises:
        ConfigError: a module has parameters, but no way to draw them again.

    >>> model = nn.Linear(3, 3)
    >>> before = model.weight.detach().clone()
    >>> redraw_(model, seed=0)
    >>> bool((model.weight == before).any())
    False
    """
    ways = {} if initialiser is not None else {m: _own_way(n, m) for n, m in model.named_modules()}
    state = rng_state()
    seed_everything(seed, "redraw")
    try:
        if initialiser is not None:
            initialise_(model, initialiser)
        for way in ways.values():
            way()
    finally:
        set_rng_state(state)


def inverted(criterion: str | Criterion) -> Criterion:
    """A criterion that keeps what another one, or the one of this name, would remove first.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.5, -2.0, 0.0]]))
    >>> inverted("magnitude")(model, ScoringData())["weight"].tolist()
    [[-0.5, -2.0, -0.0]]
    """
    function = look_up("criterion", criterion, CRITERIA)

    def least_first(model: nn.Module, data: ScoringData) -> Scores:
        scores = function(model, data)
        return Lazily({name: partial(_negative, scores, name) for name in scores})

    return least_first


def _own_way(name: str, module: nn.Module) -> Callable[[], None]:
    for word in ("reset_parameters", "_reset_parameters"):  # the second is attention's
        if hasattr(module, word):
            way: Callable[[], None] = getattr(module, word)
            return way
    if any(True for _ in module.parameters(recurse=False)):
        raise ConfigError(
            f"redraw_: {type(module).__name__} {name!r} has parameters, but no reset_parameters(). "
            "Give initialiser=, or write that method"
        )
    return lambda: None


def _negative(scores: Scores, name: str) -> torch.Tensor:
    return -scores[name]

"""The published methods of sparse-to-sparse training, as choices of rules for the one loop.

All of them take `masks`, `allocation`, `seed`, `select` and `ignore` of `DropGrow` as further
keywords, and all of them need an `end`: the optimizer step from which on the masks stay.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, prunable
from tersor.prune.dynamic.drop_grow import DropGrow
from tersor.prune.dynamic.rules import cosine
from tersor.prune.schedules import SCHEDULES, Schedule
from tersor.prune.transform import Density


def set_(
    model: nn.Module,
    density: Density | None = None,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.3,
    **options: Any,
) -> DropGrow:
    """Sparse evolutionary training: a constant share of the smallest go, random ones come.

    Args:
        every: the paper updates after every epoch; say how many optimizer steps that is.
        drop_fraction: zeta of the paper.

    Source: Mocanu et al. 2018, arXiv 1707.04780, algorithm 1. There zeta of the positive and zeta
    of the negative weights go, here zeta of both together; new weights are 0, there random.
    """
    return DropGrow(model, density, end=end, every=every, drop_fraction=drop_fraction, **options)


def rigl(
    model: nn.Module,
    density: Density | None = None,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.3,
    **options: Any,
) -> DropGrow:
    """The rigged lottery: the smallest go, those with the largest gradient come.

    An update takes the place of an optimizer step. The gradient of all weights, also of those
    that are zero, is looked at in these steps alone.

    Args:
        end: the paper takes three quarters of the training.
        drop_fraction: alpha of the paper; the share falls from there to 0 at `end` (`cosine`).

    Source: Evci, Gale, Menick, Castro and Elsen 2020, arXiv 1911.11134, algorithm 1.
    """
    fraction = partial(cosine, end=end, initial=drop_fraction)
    return DropGrow(
        model, density, end=end, every=every, drop_fraction=fraction, grow="gradient", **options
    )


def snfs(
    model: nn.Module,
    density: Density | None = None,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.2,
    **options: Any,
) -> DropGrow:
    """Sparse momentum: those with the largest momentum come, more to layers where it is large.

    It needs an optimizer with momentum; the momentum of inactive weights is kept, too.

    Args:
        every: the paper updates after every epoch; say how many optimizer steps that is.
        drop_fraction: at the start; it falls to 0 at `end` (`cosine`).

    Source: Dettmers and Zettlemoyer 2019, arXiv 1907.04840, algorithm 1.
    """
    fraction = partial(cosine, end=end, initial=drop_fraction)
    return DropGrow(
        model,
        density,
        end=end,
        every=every,
        drop_fraction=fraction,
        grow="momentum",
        share="mean_momentum",
        **options,
    )


def dsr(
    model: nn.Module,
    density: Density | None = None,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.1,
    **options: Any,
) -> DropGrow:
    """Dynamic sparse reparameterization: all below one threshold go, random ones come.

    Layers with more survivors get more of the new ones.

    Args:
        drop_fraction: the share of the active weights that the threshold is to follow.

    Source: Mostafa and Wang 2019, arXiv 1902.05967, algorithm 1.
    """
    return DropGrow(
        model,
        density,
        end=end,
        every=every,
        drop_fraction=drop_fraction,
        drop="threshold",
        share="survivors",
        **options,
    )


def nest(
    model: nn.Module,
    density: Density | None = None,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.1,
    **options: Any,
) -> DropGrow:
    """Growth by gradient and pruning by magnitude, a constant share at a time.

    Source: Dai, Yin and Jha 2019, arXiv 1711.02017, sections 3.1 and 3.3; connections alone, no
    neurons, and as many come as go.
    """
    return DropGrow(
        model,
        density,
        end=end,
        every=every,
        drop_fraction=drop_fraction,
        grow="gradient",
        **options,
    )


def grow_and_prune(
    model: nn.Module,
    density: float,
    *,
    end: int,
    every: int = 100,
    regrown: float = 0.5,
    schedule: str | Schedule = "cubic",
    select: Selectors = None,
    ignore: Selectors = None,
    **options: Any,
) -> DropGrow:
    """From dense to sparse: every update drops more than it grows, by gradient, until `density`.

    At the last update before `end` exactly `round(density * n)` weights are active.

    Args:
        density: the final one.
        regrown: the share of the dropped weights that others take the place of, 0 <= r < 1.
        schedule: of the density, a name of `SCHEDULES` or a function of their form.

    Raises:
        ConfigError: `regrown` is out of range, or there is no update before `end`.

    Source: Han and Qiao 2013; the survey of O'Neill 2020, arXiv 2006.03669, section 3. With a
    share that does not depend on the density it is Liu et al. 2021, arXiv 2106.10404.
    """
    if not 0 <= regrown < 1:
        raise ConfigError(f"regrown: {regrown}; expected 0 <= regrown < 1, a share of the dropped")
    last = (end - 1) // every * every
    if last < every:
        raise ConfigError(f"end: {end}, every: {every}; expected an update before the end")
    shape = look_up("schedule", schedule, SCHEDULES)

    def at(step: int) -> float:
        return shape(step, start=0, end=last, final=density)

    def exchanged(step: int) -> float:
        lost = 1 - at(step) / at(max(step - every, 0))
        return min(lost * regrown / (1 - regrown), 1 - lost) if lost < 1 else 0.0

    weights = prunable(model, select=select, ignore=ignore)
    with torch.no_grad():
        masks = MaskSet.full(weights)
    return DropGrow(
        model,
        masks=masks,
        end=end,
        every=every,
        drop_fraction=exchanged,
        grow="gradient",
        shrink=at,
        select=select,
        ignore=ignore,
        **options,
    )

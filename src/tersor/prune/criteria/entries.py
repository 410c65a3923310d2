"""Scores of the entries of a weight: in what precision, and for which weights there are none.

A criterion for units (`core.units`) gives each entry of a unit the unit's number, so the mean over
any group of entries of one unit is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.prune.scoring import Lazily, Scores


def precise(values: Tensor) -> Tensor:
    """At least float32: a product of a weight and a gradient vanishes in 16 bits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def refusing(criterion: str, scores: Mapping[str, Tensor], refused: Mapping[str, str]) -> Scores:
    """These scores; whoever asks for those of a refused weight is told why there are none.

    So a weight that a criterion cannot score is no obstacle as long as it does not take part.
    """
    if not refused:
        return scores
    makers = {name: partial(scores.__getitem__, name) for name in scores}
    return Lazily(
        {**makers, **{n: partial(_refuse, criterion, n, why) for n, why in refused.items()}}
    )


def _refuse(criterion: str, name: str, why: str) -> NoReturn:
    raise ConfigError(
        f"criterion {criterion!r} cannot score {name!r}: {why}. "
        f"Leave it out, ignore=[{name!r}], or take another criterion"
    )

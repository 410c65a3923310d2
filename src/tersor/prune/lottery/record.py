"""What is known of one trained network of a search: its density, its log, how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tersor.core.masks import MaskSet

Log = list[tuple[int, float]]
"""Step and validation loss."""

TICKET = "ticket"


def early_stop_step(log: Sequence[tuple[int, float]]) -> int:
    """The step of the least validation loss, the first of several; NaN is never the least.

    It is found afterwards: a training runs to its end whatever the validation says. It measures
    how fast a network learns.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, section 1 ("early-stopping iteration").

    >>> early_stop_step([(100, 0.31), (200, 0.12), (300, 0.12), (400, 0.2)])
    200
    """
    return min(log, key=lambda entry: math.inf if math.isnan(entry[1]) else entry[1])[0]


@dataclass(frozen=True)
class Record:
    """One trained network.

    Args:
        what: "ticket", or the name of a control.
        level: rounds of pruning before it was trained; 0 is the dense network.
        draw: which of several draws of a control.
        kept: name of each weight tensor to how many of it are kept.
        total: how many there are in all of them together.
        log: step and validation loss, at every look.
        early_stop_step: of the least validation loss.
        at_early_stop, at_end: what `evaluate` said at that step and at the end.
    """

    what: str
    level: int
    draw: int
    kept: Mapping[str, int]
    total: int
    log: Sequence[tuple[int, float]]
    early_stop_step: int
    at_early_stop: Mapping[str, float]
    at_end: Mapping[str, float]

    @classmethod
    def made(
        cls,
        what: str,
        level: int,
        draw: int,
        masks: MaskSet,
        log: Log,
        at_early_stop: Mapping[str, float],
        at_end: Mapping[str, float],
    ) -> Record:
        """The record of a training under these masks."""
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        step = early_stop_step(log)
        return cls(what, level, draw, kept, masks.total, log, step, at_early_stop, at_end)

    @property
    def density(self) -> float:
        """Kept / all weights."""
        return sum(self.kept.values()) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON and checkpoints take it."""
        plain = asdict(self)
        return plain | {"log": [list(entry) for entry in self.log]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Record:
        """The record that `to_dict` gave this."""
        log = [(int(step), float(loss)) for step, loss in plain["log"]]
        return cls(**(dict(plain) | {"log": log}))

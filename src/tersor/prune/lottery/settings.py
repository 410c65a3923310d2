"""What decides a search for tickets, and the name that these values give to its run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tersor.core.settings import Settings
from tersor.prune.criteria import CRITERIA
from tersor.prune.lottery.actions import PRUNED
from tersor.prune.lottery.controls import CONTROLS


class TicketSettings(Settings):
    """Settings of `find_tickets`; the defaults are those of the paper, except `steps`.

    With k = `rewind_step` and T = `steps`, `strategy` says how a pruned network is trained:

    - rewind: weights and optimizer of step k, the learning rates of k to T.
    - learning-rate: weights and optimizer of the end, the learning rates of k to T again.
    - fine-tune: goes on from the end for T - k steps, with what rates the trainer has beyond T.
    - continue: masks are found as by learning-rate, and each is then trained as by rewind.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, section 2 and appendix B (their "iterative
    pruning with resetting" is rewind with k = 0, "with continued training" is continue); Renda,
    Frankle and Carbin 2020, arXiv 2003.02389, section 3. Differences: their fine-tuning uses the
    last learning rate, here the trainer's own rates decide; they do not say what becomes of
    the optimizer's moments, here learning-rate keeps them.

    >>> settings = TicketSettings(steps=50_000, rounds=16)
    >>> settings.drop_fraction, settings.strategy, settings.digest()
    (0.2, 'rewind', '4c2ccfc69d14')
    """

    steps: int = Field(ge=1, description="optimizer steps of one training, 1 or more")
    rounds: int = Field(ge=0, description="prunings after the dense training, 0 or more")
    drop_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="0 < fraction < 1 of the remaining weights, a round"
    )
    output_drop_fraction: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="0 <= fraction < 1 for the last layer; by default half of drop_fraction, or "
        "in the pool with allocation global",
    )
    layer_drop_fractions: dict[str, float] = Field(
        default={},
        description="selectors of layers, each with a fraction of its own, 0 <= fraction < 1",
    )
    allocation: Literal["per-layer", "global"] = Field(
        default="per-layer", description="one of: per-layer, global (all that has no own fraction)"
    )
    criterion: str = Field(default="magnitude", description=f"one of: {', '.join(CRITERIA)}")
    strategy: Literal["rewind", "learning-rate", "fine-tune", "continue"] = Field(
        default="rewind", description="one of: rewind, learning-rate, fine-tune, continue"
    )
    one_shot: bool = Field(
        default=False,
        description="true or false, and true not with strategy continue: whether every mask "
        "comes from the dense network",
    )
    one_shot_levels: tuple[int, ...] | None = Field(
        default=None, description="the levels that are trained, 1 to rounds; only with one_shot"
    )
    rewind_step: int = Field(default=0, ge=0, description="a step before `steps`, 0 or more")
    pruned: str = Field(
        default="zero", description=f"what becomes of pruned weights, one of: {', '.join(PRUNED)}"
    )
    log_every: int = Field(
        default=100, ge=1, description="steps between two looks at the validation loss, 1 or more"
    )
    controls: tuple[str, ...] = Field(default=(), description=f"a list of: {', '.join(CONTROLS)}")
    control_levels: tuple[int, ...] | None = Field(
        default=None, description="the levels that get controls, 1 to rounds; by default all"
    )
    control_draws: int = Field(
        default=1, ge=1, description="how often each control is drawn, 1 or more"
    )
    seed: int = Field(default=0, description="a whole number: what the controls draw from")

    @field_validator("criterion", "pruned", "controls")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        known = {"criterion": set(CRITERIA), "pruned": set(PRUNED), "controls": set(CONTROLS)}
        given = {value} if isinstance(value, str) else set(value)
        if not given <= known[str(info.field_name)]:
            raise ValueError
        return value

    @field_validator("layer_drop_fractions")
    @classmethod
    def _fractions(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(0 <= fraction < 1 for fraction in value.values()):
            raise ValueError
        return value

    @field_validator("rewind_step")
    @classmethod
    def _before_the_last(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("steps", math.inf):
            raise ValueError
        return value

    @field_validator("one_shot")
    @classmethod
    def _from_the_dense_network(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("strategy") == "continue":
            raise ValueError
        return value

    @field_validator("one_shot_levels", "control_levels")
    @classmethod
    def _inside(cls, value: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        top = info.data.get("rounds", math.inf)
        if value is not None and not all(1 <= level <= top for level in value):
            raise ValueError
        if value is not None and info.field_name == "one_shot_levels":
            if not info.data.get("one_shot", True):
                raise ValueError
        return value

    @property
    def trained_levels(self) -> tuple[int, ...]:
        """The levels that are trained, in order; 0 is the dense network."""
        chosen = self.one_shot_levels
        return (0, *(range(1, self.rounds + 1) if chosen is None else sorted(set(chosen))))

    def digest(self, decided_by: Mapping[str, Any] | None = None) -> str:
        """Twelve hexadecimal digits that name a run: the same for the same values alone.

        Args:
            decided_by: what else decides the result, as plain data (task, model, optimizer, seed).
        """
        values = {"settings": self.model_dump(mode="json"), "decided by": dict(decided_by or {})}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

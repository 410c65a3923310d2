"""Find lottery tickets: train, prune, go back, train again, with the controls beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tersor.core.hooks import Method
from tersor.core.masks import HeldMasks, MaskSet
from tersor.core.report import Report, Value
from tersor.core.seeding import generator
from tersor.core.weights import Selectors, prunable
from tersor.prune.criteria import CRITERIA
from tersor.prune.lottery.actions import PRUNED, Frozen
from tersor.prune.lottery.controls import (
    MASK_CONTROLS,
    WEIGHT_CONTROLS,
    Initialiser,
    reset_parameters,
)
from tersor.prune.lottery.keeping import Keeping
from tersor.prune.lottery.ladder import Ladder
from tersor.prune.lottery.record import TICKET, Record
from tersor.prune.lottery.settings import TicketSettings
from tersor.prune.lottery.training import Evaluate, Trainer, Validate, copied, train_and_watch
from tersor.prune.scoring import Data, as_scoring_data


@dataclass(frozen=True)
class Level:
    """A ticket: which weights are left after some rounds, and how well they trained.

    Args:
        masks: the weights that are kept.
        record: how good the network was that was trained under these masks.
        trained: the model's state at the end of that training.
    """

    masks: MaskSet
    record: Record
    trained: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tickets:
    """All that a search found.

    Args:
        levels: the dense network first, then one ticket a level.
        controls: the records of all controls.
        folder: where the files are, if they are kept.
    """

    levels: tuple[Level, ...]
    controls: tuple[Record, ...]
    folder: Path | None

    def report(self) -> Report:
        """One row a network: density, early-stop step, what `evaluate` said."""
        dense = self.levels[0].record
        rows: list[dict[str, Value]] = []
        for record in (*(level.record for level in self.levels), *self.controls):
            row: dict[str, Value] = {
                "network": record.what if record.level else "dense",
                "level": record.level,
                "density %": 100 * record.density,
                "early-stop step": record.early_stop_step,
            }
            row |= {f"{key} at early stop": value for key, value in record.at_early_stop.items()}
            row |= {f"{key} at the end": value for key, value in record.at_end.items()}
            rows.append(row)
        rows.sort(key=lambda row: int(str(row["level"])))
        summary = {
            "weights": dense.total,
            "levels": len(self.levels),
            "controls": len(self.controls),
            "steps of one training": dense.log[-1][0],
        }
        return Report("Lottery tickets", summary, rows)


def find_tickets(
    trainer: Trainer,
    settings: TicketSettings,
    *,
    validate: Validate,
    evaluate: Evaluate,
    folder: Path | None = None,
    decided_by: Mapping[str, Any] | None = None,
    initialise: Initialiser = reset_parameters,
    data: Data = None,
    select: Selectors = None,
    ignore: Selectors = None,
    shown: Callable[[Record], None] | None = None,
) -> Tickets:
    """Search for tickets on the ladder of densities, and train controls for them.

    theta_k = train(theta_0, k);  m_0 = 1
    theta_T = train(m_r * theta_k, k to T);  m_{r+1} = m_r without the least |theta_T|

    Weights, biases, normalisation statistics and the optimizer all go back to step k (`strategy`
    says what else there is). Biases and normalisation parameters are not pruned.

    A control that changes the mask starts at theta_k, too. One that changes the weights does so at
    step 0 and is trained dense to step k, as theta_k was. Each draw has a seed of its own.

    Args:
        trainer: at step 0; brought back there at the end.
        settings: what is searched, and how.
        validate: the validation loss; looked at every `settings.log_every` steps.
        evaluate: what is reported of a network at its early-stop step and at the end.
        folder: a folder `tickets-<hash>` is made in it, with a file for each network: a search that
            was killed goes on there and ends with the same bytes, a finished one is only read.
        decided_by: what decides the result besides the settings, as plain data: task, model,
            optimizer, learning rate, seed. It is part of the hash.
        initialise: draws the model anew, for the controls random-reinit and sign-kept.
        data: for criteria that look at data.
        select, ignore: which weights are pruned, as in `tersor.core.prunable`.
        shown: called with each record, also with those that were read.

    Returns:
        The levels with masks, records and trained states, and the records of the controls.

    Raises:
        ConfigError: the folder holds a search that began elsewhere; a tensor would be left empty.
        FormatError: a file in the folder is damaged.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, section 2; k > 0: Frankle, Dziugaite, Roy and
    Carbin 2020, arXiv 1912.05671. Difference: they train controls for k > 0 from theta_k of another
    initialisation, too, but without the same data order; here all networks see the same order.
    """
    run = _Search(trainer, settings, validate, evaluate, initialise, data, select, ignore)
    if folder is not None:
        folder = folder / f"tickets-{settings.digest(decided_by)}"
    return run.go(Keeping(folder), shown or (lambda record: None))


class _Search:
    """The states and masks of one search; `begin` is where its trainings start."""

    def __init__(
        self,
        trainer: Trainer,
        settings: TicketSettings,
        validate: Validate,
        evaluate: Evaluate,
        initialise: Initialiser,
        data: Data,
        select: Selectors,
        ignore: Selectors,
    ) -> None:
        self.trainer, self.settings = trainer, settings
        self.validate, self.evaluate, self.initialise = validate, evaluate, initialise
        self.data = as_scoring_data(data)
        weights = prunable(trainer.model, select=select, ignore=ignore)
        self.full = MaskSet.full(weights)
        self.ladder = Ladder.of(trainer.model, weights, settings)
        self.start = trainer.state_dict()
        self.begin: dict[str, Any] = {}

    def go(self, keeping: Keeping, shown: Callable[[Record], None]) -> Tickets:
        """Every level, and then every control."""
        self.begin = keeping.state("start", self._to_rewind_step)
        keeping.same_start(self.start["model"], self.begin["at step 0"])
        levels: list[Level] = []
        before: dict[str, Any] | None = None
        for number in self.settings.trained_levels:
            compute = partial(self._level, number, before)
            state = keeping.state(f"level-{number:02d}", compute)
            record = Record.from_dict(state["record"])
            levels.append(Level(MaskSet(state["masks"]), record, state["trained"]))
            shown(record)
            if before is None or not self.settings.one_shot:
                before = state
        controls = []
        for level in levels[1:]:
            for name, draw in self._controls_of(level.record.level):
                compute_control = partial(self._control, name, level, draw)
                file = f"level-{level.record.level:02d}-{name}-{draw}"
                controls.append(keeping.record(file, compute_control))
                shown(controls[-1])
        self.trainer.load_state_dict(self.start)
        return Tickets(tuple(levels), tuple(controls), keeping.folder)

    def _to_rewind_step(self) -> dict[str, Any]:
        """theta_0, and the whole state at step k."""
        self.trainer.load_state_dict(self.start)
        self.trainer.run(self.settings.rewind_step)
        return {"at step 0": self.start["model"], "at step k": self.trainer.state_dict()}

    def _level(self, level: int, before: dict[str, Any] | None) -> dict[str, Any]:
        """Prune what the level before it trained, and train what is left."""
        masks, frozen = self.full, dict[str, Tensor]()
        if before is not None:
            masks, frozen = self._pruned(level, before)
        method = self._holding(masks, frozen)
        strategy = self.settings.strategy
        if before is None or strategy in ("rewind", "continue"):
            self.trainer.load_state_dict(self.begin["at step k"])
            until = self.settings.steps
        else:
            until = self._go_on(before["chain"])
        record = self._trained(TICKET, level, 0, masks, method, until)
        state = {
            "masks": masks.state_dict(),
            "frozen": frozen,
            "record": record.to_dict(),
            "trained": copied(self.trainer.model),
        }
        if strategy == "continue" and before is not None:
            self._go_on(before["chain"])
            self.trainer.run(self.settings.steps, methods=[method])
        if strategy != "rewind":
            state["chain"] = self.trainer.state_dict()
        return state

    def _go_on(self, chain: dict[str, Any]) -> int:
        """Take up the weights and the optimizer of the end; the step to train to is given."""
        self.trainer.load_state_dict(chain)
        length = self.settings.steps - self.settings.rewind_step
        if self.settings.strategy != "fine-tune":
            self.trainer.step = self.settings.rewind_step
        return self.trainer.step + length

    def _pruned(self, level: int, before: dict[str, Any]) -> tuple[MaskSet, dict[str, Tensor]]:
        """The masks of a level, and the values at which its pruned weights are frozen."""
        previous = MaskSet(before["masks"])
        trained = before["chain"]["model"] if "chain" in before else before["trained"]
        self.trainer.model.load_state_dict(trained)
        scores = CRITERIA[self.settings.criterion](self.trainer.model, self.data)
        masks = self.ladder.masks(level, scores, previous)
        if self.settings.pruned == "zero":
            return masks, {}
        initial, action = self.begin["at step k"]["model"], PRUNED[self.settings.pruned]
        frozen = {}
        for name, mask in masks.items():
            values = action(initial[name], trained[name])
            if before["frozen"]:  # what was pruned earlier keeps its value
                values = torch.where(previous[name], values, before["frozen"][name])
            frozen[name] = torch.where(mask, 0.0, values)
        return masks, frozen

    def _holding(self, masks: MaskSet, frozen: dict[str, Tensor]) -> Method:
        model = self.trainer.model
        return Frozen(model, masks, frozen) if frozen else HeldMasks(model, masks)

    def _controls_of(self, level: int) -> list[tuple[str, int]]:
        chosen = self.settings.control_levels
        if chosen is not None and level not in chosen:
            return []
        draws = range(self.settings.control_draws)
        return [(name, draw) for name in self.settings.controls for draw in draws]

    def _control(self, name: str, level: Level, draw: int) -> Record:
        """Train one draw of a control for the ticket of a level."""
        own = generator(self.settings.seed, "control", name, level.record.level, draw)
        masks, model = level.masks, self.trainer.model
        self.trainer.load_state_dict(self.start)
        if name in MASK_CONTROLS:
            masks = MASK_CONTROLS[name](model, masks, own)
            self.trainer.load_state_dict(self.begin["at step k"])
        else:
            WEIGHT_CONTROLS[name](model, masks, own, self.initialise)
            self.trainer.run(self.settings.rewind_step)
        method = HeldMasks(model, masks)
        return self._trained(name, level.record.level, draw, masks, method, self.settings.steps)

    def _trained(
        self, what: str, level: int, draw: int, masks: MaskSet, method: Method, until: int
    ) -> Record:
        log, at_early_stop, at_end = train_and_watch(
            self.trainer,
            until,
            methods=[method],
            every=self.settings.log_every,
            validate=self.validate,
            evaluate=self.evaluate,
        )
        return Record.made(what, level, draw, masks, log, at_early_stop, at_end)

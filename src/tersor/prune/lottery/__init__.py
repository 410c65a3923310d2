"""Lottery tickets: small networks in a large one that train as well as it, and how to find them."""

from tersor.prune.lottery.actions import PRUNED, Frozen
from tersor.prune.lottery.controls import (
    CONTROLS,
    MASK_CONTROLS,
    WEIGHT_CONTROLS,
    reset_parameters,
)
from tersor.prune.lottery.early_bird import EarlyBird
from tersor.prune.lottery.ladder import kept_after
from tersor.prune.lottery.record import Record, early_stop_step
from tersor.prune.lottery.scratch import scratch_b_steps, scratch_e_steps
from tersor.prune.lottery.search import Level, Tickets, find_tickets
from tersor.prune.lottery.settings import TicketSettings
from tersor.prune.lottery.training import Trainer

__all__ = [
    "CONTROLS",
    "MASK_CONTROLS",
    "PRUNED",
    "WEIGHT_CONTROLS",
    "EarlyBird",
    "Frozen",
    "Level",
    "Record",
    "TicketSettings",
    "Tickets",
    "Trainer",
    "early_stop_step",
    "find_tickets",
    "kept_after",
    "reset_parameters",
    "scratch_b_steps",
    "scratch_e_steps",
]

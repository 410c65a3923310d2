"""Masks that are learned over weights that never change; one network for many tasks.

`edge_popup_`, `stochastic_mask_` and `piggyback_` put a mask before the weights of a model, to be
trained and then made plain by `tersor.prune.learned.finalize_`. `SupSup` keeps a mask for each of
many tasks, one bit a weight, and finds out which task an input is of.
"""

from collections.abc import Callable

from tersor.core.report import Report
from tersor.prune.supermasks.constants import signed_constant_
from tersor.prune.supermasks.inference import OBJECTIVES, entropy, superfluous
from tersor.prune.supermasks.masks import edge_popup_, piggyback_, stochastic_mask_
from tersor.prune.supermasks.straight_through import straight_through
from tersor.prune.supermasks.supsup import SupSup

SUPERMASKS: dict[str, Callable[..., Report]] = {
    "edge_popup": edge_popup_,
    "stochastic": stochastic_mask_,
    "piggyback": piggyback_,
}
"""Name of a method to what prepares a model for it."""

__all__ = [
    "OBJECTIVES",
    "SUPERMASKS",
    "SupSup",
    "edge_popup_",
    "entropy",
    "piggyback_",
    "signed_constant_",
    "stochastic_mask_",
    "straight_through",
    "superfluous",
]

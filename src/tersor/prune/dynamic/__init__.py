"""Networks that are sparse while they train: which weights are there moves, how many does not."""

from collections.abc import Callable

from tersor.core.hooks import Method
from tersor.prune.dynamic.cost import training_cost
from tersor.prune.dynamic.deep_r import DeepR
from tersor.prune.dynamic.drop_grow import DropGrow
from tersor.prune.dynamic.dynamic_filters import dynamic_filters
from tersor.prune.dynamic.published import dsr, grow_and_prune, nest, rigl, set_, snfs
from tersor.prune.dynamic.rules import DROPS, GROWS, SHARES, Grow, cosine
from tersor.prune.dynamic.sparse_view import SparseView
from tersor.prune.dynamic.sr_ste import sr_ste
from tersor.prune.dynamic.top_kast import top_kast

DYNAMIC: dict[str, Callable[..., Method]] = {
    "set": set_,
    "rigl": rigl,
    "snfs": snfs,
    "dsr": dsr,
    "nest": nest,
    "grow_and_prune": grow_and_prune,
    "deep_r": DeepR,
    "top_kast": top_kast,
    "sr_ste": sr_ste,
    "dynamic_filters": dynamic_filters,
}

__all__ = [
    "DROPS",
    "DYNAMIC",
    "GROWS",
    "SHARES",
    "DeepR",
    "DropGrow",
    "Grow",
    "SparseView",
    "cosine",
    "dsr",
    "dynamic_filters",
    "grow_and_prune",
    "nest",
    "rigl",
    "set_",
    "snfs",
    "sr_ste",
    "top_kast",
    "training_cost",
]

"""The ways to share weights by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tersor.share.attention_sharing import share_attention_
from tersor.share.hashing import hash_
from tersor.share.layer_sharing import share_layers_
from tersor.share.soft_sharing import SoftSharing
from tersor.share.templates import share_templates_
from tersor.share.tying import tie_

SHARINGS: dict[str, Callable[..., Any]] = {
    "hash": hash_,
    "tie": tie_,
    "layers": share_layers_,
    "templates": share_templates_,
    "attention": share_attention_,
    "soft": SoftSharing,
}
"""Name of a way to the transform of a model, or the method that acts while it trains."""

"""Where second derivatives are taken: the fused attention kernels have a first derivative only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tersor.core.weights import Weight
from tersor.prune.scoring import differentiable


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, weights: Iterable[Weight]) -> Iterator[None]:
    """As `differentiable`, with attention as plain matrix products."""
    with differentiable(model, weights), sdpa_kernel(SDPBackend.MATH):
        yield

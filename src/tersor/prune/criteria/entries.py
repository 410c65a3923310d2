"""The numbers that criteria compute with: entries of a weight, and one number for each unit."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """At least float32: a product of a weight and a gradient vanishes in 16 bits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

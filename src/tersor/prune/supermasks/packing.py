"""A mask as bits: eight weights a byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tersor.core.errors import FormatError


def pack(mask: Tensor) -> Tensor:
    """A bool tensor as bytes, the first entry in the highest bit; the last byte is filled with 0.

    >>> pack(torch.tensor([True, False, True]))
    tensor([160], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def unpack(packed: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """What `pack` was given, of this shape.

    Args:
        name: of the weight, for the message.

    Raises:
        FormatError: there are more or fewer bytes, or they are no bytes.

    >>> unpack(torch.tensor([160], dtype=torch.uint8), (3,), "w")
    tensor([ True, False,  True])
    """
    count = int(np.prod(shape, dtype=np.int64))
    size = (count + 7) // 8
    if packed.dtype != torch.uint8 or packed.shape != (size,):
        raise FormatError(
            f"mask {name!r}: {tuple(packed.shape)} of {packed.dtype}, "
            f"expected {size:,} bytes for {count:,} weights"
        )
    bits = np.unpackbits(packed.numpy(), count=count).astype(bool)
    return torch.from_numpy(bits).reshape(tuple(shape))

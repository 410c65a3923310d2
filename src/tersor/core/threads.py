"""How many threads torch uses on the CPU, for as long as a block runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[int]:
    """Run with so many of torch's threads, None = as they are; afterwards as before.

    >>> with threads(1) as used:
    ...     used
    1
    """
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

"""One seed decides everything random: same seed, same bytes."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *scope: str | int) -> int:
    """A seed of 63 bits for one purpose, independent of those of other purposes.

    >>> derive(0, "split") == derive(0, "split") != derive(0, "epoch", 1)
    True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *scope))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(seed: int, *scope: str | int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices) for one purpose."""
    number = derive(seed, *scope)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - users' own data code may draw from it
    torch.manual_seed(number)


def generator(seed: int, *scope: str | int) -> torch.Generator:
    """A generator of its own for one purpose; the global ones are left as they are."""
    return torch.Generator().manual_seed(derive(seed, *scope))


def rng_state() -> dict[str, Any]:
    """The state of all global generators, to be given to `set_rng_state`.

    It holds numbers, tuples and tensors alone, so it can be loaded with `weights_only=True`.
    """
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - see seed_everything
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put all global generators back to where `rng_state` saw them."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])

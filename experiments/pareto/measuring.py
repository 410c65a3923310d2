"""What a method costs: bytes of the file, latency as deployed; and which are on the front."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tersor.compress import structure
from tersor.core.errors import ConfigError, FormatError
from tersor.measure import latencies
from tersor.run import deploy
from tersor.share import materialize_
from tersor.store import read_tensors, save

RUNS = 100


def write(model: nn.Module, path: Path) -> int:
    """Write a network with its structure, read it back; bytes of the file.

    Raises:
        FormatError: what is read is not what was written, bit for bit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = structure(model)
    save(model, path, metadata={"structure": told} if told else None)
    again, state = read_tensors(path), model.state_dict()
    if list(again) != list(state) or not all(torch.equal(again[n], state[n]) for n in state):
        raise FormatError(f"{path}: not the network that was written")
    return path.stat().st_size


def deployed(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """The fastest form of a network here; layers that put their weight together are plain first."""
    plain = copy.deepcopy(model).eval()
    try:
        materialize_(plain)
    except ConfigError:  # nothing in it is hashed
        plain = model
    return deploy(plain, example, threads=1)


def speed(reference: nn.Module, model: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """Median milliseconds of the deployed network by those of the reference, timed in turns."""
    with torch.no_grad():
        found = latencies({"dense": reference, "this": model}, example, runs=RUNS, threads=1)
    return {"ms": found["this"].p50_ms, "latency": found["this"].p50_ms / found["dense"].p50_ms}


def front(costs: Sequence[float], errors: Sequence[float]) -> list[bool]:
    """Which points no other one beats: less of one, and no more of the other.

    >>> front([1, 2, 3, 2], [9.0, 5.0, 5.0, 6.0])
    [True, True, False, False]
    """
    points = list(zip(costs, errors, strict=True))
    return [
        not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e in points)
        for cost, error in points
    ]

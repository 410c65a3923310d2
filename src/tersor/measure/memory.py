"""How much memory a model takes: the bytes of its tensors, and the peak of a process that runs it.

The peak is taken in a fresh process, as what a process has once held it seldom gives back. It
counts from a process that has torch and the caller's modules imported and has run two tiny layers.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tersor.core.errors import TersorError

_PROC = Path("/proc/self")

_CHILD = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
pickle.load(sys.stdin.buffer)()
"""


@dataclass(frozen=True)
class Peak:
    """Bytes of memory that a process held at most, above what it held before.

    Args:
        prepared: until the model was ready: built, read, decoded.
        running: in the passes after that, with the model itself; None if the system cannot tell
            the peak of a part.
        how: what told it.
    """

    prepared: int
    running: int | None
    how: str


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the memory behind all parameters and buffers, that of tied ones and views once.

    >>> layer = nn.Linear(4, 2)
    >>> weight_bytes(layer), weight_bytes(nn.Sequential(layer, layer))
    (40, 40)
    """
    storages = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        storage = tensor.untyped_storage()
        storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_memory(prepare: Callable[[], Callable[[], object]]) -> Peak:
    """The peak memory of a fresh process that calls `prepare`, and then what that gives.

    Pages of libraries that are read for the first time count, too: some megabytes, in which a
    small network drowns. Compare two of the same kind.

    Args:
        prepare: makes a model ready and returns the passes, a function without arguments. It is
            pickled, so it is a function of a module, or a `functools.partial` of one.

    Raises:
        TersorError: the process failed, or this system does not tell the memory of a process.

    >>> from functools import partial
    >>> peak_memory(partial(partial, torch.ones, 10_000_000)).prepared < 40_000_000
    True
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=pickle.dumps(sys.path) + pickle.dumps(functools.partial(_child, prepare)),
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace").splitlines() or ["without a word"]
        raise TersorError(
            f"peak_memory: the process that measures ended with code {done.returncode}: {said[-1]}"
        )
    return Peak(**json.loads(lines[-1]))


def _child(prepare: Callable[[], Callable[[], object]]) -> None:
    """Measures itself and prints the numbers, in a process of its own."""
    with torch.no_grad():
        nn.Linear(8, 8)(torch.zeros(2, 8))
        nn.Conv2d(1, 1, 3)(torch.zeros(2, 1, 8, 8))
        peak, how = _meter()
        _forget_peak()
        before = peak()
        passes = prepare()
        prepared = peak() - before
        gc.collect()
        divided = _forget_peak()
        passes()
        running = peak() - before if divided else None
    print("\n" + json.dumps({"prepared": prepared, "running": running, "how": how}))


def _meter() -> tuple[Callable[[], int], str]:
    """A function that tells the peak of this process in bytes, and what it asks."""
    if (_PROC / "status").exists():
        return _high_water, "VmHWM of /proc/self/status"
    try:
        import resource
    except ImportError:
        raise TersorError(
            f"the memory of a process cannot be told on {sys.platform}: no /proc, no resource"
        ) from None
    unit = 1 if sys.platform == "darwin" else 1024
    return (
        lambda: unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "ru_maxrss of getrusage",
    )


def _high_water() -> int:
    lines = (_PROC / "status").read_text("ascii", errors="replace").splitlines()
    [kibibytes] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(kibibytes)


def _forget_peak() -> bool:
    """Let the peak begin anew from what is held now; False where the system cannot."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True

"""On which machine something was measured: numbers of time mean nothing without it."""

from __future__ import annotations

import os
import platform

import torch

from tersor.core.machine import flushes_denormals, processor
from tersor.core.report import Value


def machine() -> dict[str, Value]:
    """CPU, cores, torch and what of its state decides how fast it is.

    >>> list(machine())
    ['CPU', 'instructions', 'cores', 'cores to use', 'system', 'torch', 'denormals']
    """
    return {
        "CPU": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "cores to use": _usable_cores(),
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "denormals": "flushed to zero" if flushes_denormals() else "computed with, which is slow",
    }


def _usable_cores() -> int | None:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()

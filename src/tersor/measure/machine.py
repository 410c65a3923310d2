"""On which machine something was measured: numbers of time mean nothing without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from tersor.core.report import Value


def machine() -> dict[str, Value]:
    """CPU, cores, torch and what of its state decides how fast it is.

    >>> list(machine())
    ['CPU', 'instructions', 'cores', 'cores to use', 'system', 'torch', 'denormals']
    """
    return {
        "CPU": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "cores to use": _usable_cores(),
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "denormals": "flushed to zero" if flushes_denormals() else "computed with, which is slow",
    }


def flushes_denormals() -> bool:
    """Whether this thread takes numbers below 1e-38 for zero (`torch.set_flush_denormal`).

    torch tells only whether it can; so one is made.
    """
    return bool(torch.tensor([1e-30]).mul(1e-10).item() == 0.0)


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()

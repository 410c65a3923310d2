"""What the processor is called, and what it does with denormal numbers: both decide speed."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name where the system tells it, else that of its kind."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # only Linux has the file
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def flushes_denormals() -> bool:
    """Whether this thread takes numbers below 1e-38 for zero (`torch.set_flush_denormal`).

    torch tells only whether it can; so one is made.
    """
    return bool(torch.tensor([1e-30]).mul(1e-10).item() == 0.0)

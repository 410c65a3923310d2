"""How long one forward pass takes, as percentiles over many."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.measure.observing import observing


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of `batch` samples.

    Args:
        p50_ms, p90_ms, p99_ms: half, nine in ten, 99 in a hundred of the passes took at most this.
        mean_ms: the mean of all.
        runs: how many passes were timed.
        batch: samples of one pass.
        threads: that torch used on the CPU.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs: int
    batch: int
    threads: int


def latency(
    model: nn.Module,
    example_input: Tensor,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int | None = None,
) -> Latency:
    """Time forward passes of a model in eval mode, on its own device.

    Afterwards the training flags and torch's number of threads are as they were. Other work on
    the machine shows in the upper percentiles first: compare medians.

    Args:
        model: takes `example_input`.
        example_input: the whole batch, (N, *).
        runs: passes that are timed, 1 or more.
        warmup: passes before those, 0 or more: the first ones pay for memory and code.
        threads: for torch on the CPU; None leaves the number as it is.

    Raises:
        ConfigError: a number is out of its range.

    >>> latency(nn.Linear(8, 2), torch.zeros(4, 8), runs=5).batch
    4
    """
    for name, value, least in (("runs", runs, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value is not None and value < least:
            raise ConfigError(f"latency: {name} {value}, expected {least} or more")
    threads_before = torch.get_num_threads()
    seconds = []
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        threads_used = torch.get_num_threads()
        with observing(model) as device:
            batch = example_input.to(device)
            for _ in range(warmup):
                model(batch)
            _wait_for(device)
            for _ in range(runs):
                start = time.perf_counter()
                model(batch)
                _wait_for(device)
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads_before)
    milliseconds = 1000 * np.array(seconds)
    p50, p90, p99 = (float(p) for p in np.percentile(milliseconds, (50, 90, 99)))
    mean = float(milliseconds.mean())
    return Latency(p50, p90, p99, mean, runs, example_input.shape[0], threads_used)


def _wait_for(device: torch.device) -> None:
    """An accelerator works on after the call has returned; the time ends when it is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

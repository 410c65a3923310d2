"""Which of several ways to do the same is the fastest here: medians of interleaved runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

_LEAST_SAMPLE = 2e-4  # seconds: shorter calls are repeated, as a clock and a wake-up cost as much
_FAR = 3.0  # times as slow as the fastest


def race(
    calls: Mapping[str, Callable[[], object]], *, seconds: float = 0.25, least: int = 7
) -> dict[str, float]:
    """Median milliseconds of each call, timed in turns, so that noise hits all alike.

    Calls that are far behind the fastest when they are first timed are timed no more, but for the
    first one, with which the others are compared.

    Args:
        calls: what is compared.
        seconds: about how long all of it may take; the slowest are still called `least` times.
        least: samples of each call, at least.
    """
    samples: dict[str, list[float]] = {}
    for name, call in calls.items():
        call()
        samples[name] = [_seconds(call, 1)]
    first = next(iter(calls))
    limit = _FAR * min(taken[0] for taken in samples.values())
    running = [name for name in calls if name == first or samples[name][0] <= limit]
    repeats = {n: max(1, round(_LEAST_SAMPLE / samples[n][0])) for n in running}
    once = sum(repeats[name] * samples[name][0] for name in running)
    for name in running:
        samples[name].clear()
    for _ in range(max(least, min(101, int(seconds / once)))):
        for name in running:
            samples[name].append(_seconds(calls[name], repeats[name]))
    return {name: 1000 * statistics.median(taken) for name, taken in samples.items()}


def _seconds(call: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return max((time.perf_counter() - start) / repeat, 1e-9)

"""When weights go: the density as a function of the optimizer step.

Every schedule is `initial` before `start`, exactly `final` from `end` on, and never rises.
"""

from __future__ import annotations

from collections.abc import Callable

from tersor.core.errors import ConfigError

Schedule = Callable[..., float]


def one_shot(step: int, *, start: int, end: int, final: float, initial: float = 1.0) -> float:
    """All at once at `start`.

    Args, Raises: as `cubic`.
    """
    return initial if _progress(step, start, end, final, initial) is None else final


def linear(step: int, *, start: int, end: int, final: float, initial: float = 1.0) -> float:
    """The same number of weights at every step.

    Args, Raises: as `cubic`.
    """
    x = _progress(step, start, end, final, initial)
    return _bounded(initial + (final - initial) * (x or 0.0), x, final, initial)


def cubic(step: int, *, start: int, end: int, final: float, initial: float = 1.0) -> float:
    """Density at `step`: falls fast at first, slowly towards the end.

    density = final + (initial - final) * (1 - x)**3,   x = (step - start) / (end - start)

    Args:
        step: optimizer steps done so far (not batches, when gradients are accumulated).
        start, end: the window in optimizer steps; before it `initial`, from `end` on exactly
            `final`.
        final, initial: densities, 0 < final <= initial <= 1.

    Returns:
        A density in [final, initial] that never rises with `step`.

    Raises:
        ConfigError: the window is reversed, or the densities are out of order.

    Source: Zhu and Gupta 2017, arXiv 1710.01878, eq. 1, in densities; their n * dt is
    `end - start`.

    >>> [round(cubic(t, start=0, end=100, final=0.1), 4) for t in (0, 50, 100)]
    [1.0, 0.2125, 0.1]
    """
    x = _progress(step, start, end, final, initial)
    return _bounded(final + (initial - final) * (1 - (x or 0.0)) ** 3, x, final, initial)


def geometric(step: int, *, start: int, end: int, final: float, initial: float = 1.0) -> float:
    """The same share of the remaining weights at every step: initial * (final / initial)**x.

    Args, Raises: as `cubic`.

    Source: the iterative pruning of Frankle and Carbin 2019, arXiv 1803.03635, section 2, with
    drop_fraction = 1 - (final / initial)**(1 / rounds).

    >>> [round(geometric(t, start=0, end=3, final=0.064), 3) for t in range(4)]
    [1.0, 0.4, 0.16, 0.064]
    """
    x = _progress(step, start, end, final, initial)
    return _bounded(initial * (final / initial) ** (x or 0.0), x, final, initial)


SCHEDULES: dict[str, Schedule] = {f.__name__: f for f in (one_shot, linear, cubic, geometric)}


def _progress(step: int, start: int, end: int, final: float, initial: float) -> float | None:
    """How much of the window is over, 0 to 1; None before it."""
    if not 0 < final <= initial <= 1:
        raise ConfigError(
            f"schedule: final density {final}, initial {initial}; "
            "expected 0 < final <= initial <= 1"
        )
    if end < start:
        raise ConfigError(f"schedule: from step {start} to step {end}; expected start <= end")
    if step < start:
        return None
    return 1.0 if step >= end else (step - start) / (end - start)


def _bounded(density: float, progress: float | None, final: float, initial: float) -> float:
    """No rounding of a formula is seen: exact at the ends, in the range between them."""
    if progress is None:
        return initial
    return final if progress == 1.0 else min(max(density, final), initial)

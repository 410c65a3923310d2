"""A strength that grows with the optimizer steps, from nothing to all."""

from __future__ import annotations

from dataclasses import dataclass

from tersor.core.errors import ConfigError


@dataclass(frozen=True)
class Ramp:
    """0 up to step `start`, then linearly to `strength` in `warm_up` steps.

    Args:
        strength: the final one, 0 or more.
        start: optimizer steps without any.
        warm_up: optimizer steps until it is whole; 0 is at once.

    Raises:
        ConfigError: one of them is negative.

    >>> ramp = Ramp(0.5, start=10, warm_up=4)
    >>> [ramp(step) for step in (9, 10, 11, 13, 14)]
    [0.0, 0.0, 0.125, 0.375, 0.5]
    """

    strength: float
    start: int = 0
    warm_up: int = 0

    def __post_init__(self) -> None:
        for name in ("strength", "start", "warm_up"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"{name}: {value}; expected 0 or more")

    def __call__(self, step: int) -> float:
        """The strength of the step after `step` steps were made."""
        if step < self.start:
            return 0.0
        return self.strength * min(1.0, (step - self.start) / self.warm_up if self.warm_up else 1.0)

    @property
    def end(self) -> int:
        """From this step on it is whole."""
        return self.start + self.warm_up

"""How long a pruned architecture is trained from scratch, so that the comparison is fair."""

from __future__ import annotations

from tersor.core.errors import ConfigError


def scratch_e_steps(steps: int) -> int:
    """As many steps as the dense network was trained for (Scratch-E).

    Source: Liu, Sun, Zhou, Huang and Darrell 2019, arXiv 1810.05270, section 3.
    """
    if steps < 1:
        raise ConfigError(f"scratch_e_steps: {steps} steps; expected 1 or more")
    return steps


def scratch_b_steps(
    steps: int, *, dense_macs: float, macs: float, at_most: float | None = None
) -> int:
    """As many steps as cost what the dense network's training did (Scratch-B).

    steps * dense_macs / macs, rounded

    Args:
        steps: of the dense network's training.
        dense_macs, macs: multiply-accumulates of one input, dense and pruned.
        at_most: the longest training, as a multiple of `steps`; 2 is the paper's for ImageNet.

    Raises:
        ConfigError: a number is not positive, or the pruned network costs more than the dense one.

    Source: Liu, Sun, Zhou, Huang and Darrell 2019, arXiv 1810.05270, section 3.

    >>> scratch_b_steps(1000, dense_macs=266_200, macs=106_480)
    2500
    >>> scratch_b_steps(1000, dense_macs=266_200, macs=106_480, at_most=2)
    2000
    """
    if steps < 1:
        raise ConfigError(f"scratch_b_steps: {steps} steps; expected 1 or more")
    if not 0 < macs <= dense_macs:
        raise ConfigError(
            f"scratch_b_steps: macs {macs:g}; expected more than 0 and no more than the dense "
            f"network's {dense_macs:g}"
        )
    if at_most is not None and at_most < 1:
        raise ConfigError(f"scratch_b_steps: at_most {at_most:g}; expected 1 or more")
    factor = dense_macs / macs
    return round(steps * (factor if at_most is None else min(factor, at_most)))

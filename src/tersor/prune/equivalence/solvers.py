"""Small deterministic problems to the last digits: L-BFGS, proximal gradient, gradient flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Objective = Callable[[list[Tensor]], Tensor]
"""Some tensors to a scalar."""

Prox = Callable[[list[Tensor], float], list[Tensor]]
"""`argmin_z penalty(z) + |z - x|**2 / (2 step)` for tensors x and a step."""


def minimise(
    objective: Objective, start: Sequence[Tensor], *, steps: int = 1000, restarts: int = 20
) -> list[Tensor]:
    """A local minimum by torch's L-BFGS, restarted while that still finds a lower value.

    Args:
        objective: differentiable; at a kink it may stop too early.
        start: left as they are; float64 for the last digits.
        steps: in each restart, at most.
        restarts: at most.

    >>> at = minimise(lambda x: (x[0] - 3).square().sum(), [torch.zeros(2, dtype=torch.float64)])
    >>> at[0].tolist()
    [3.0, 3.0]
    """
    points = [tensor.detach().clone().requires_grad_() for tensor in start]
    best, lowest = [point.detach().clone() for point in points], float("inf")
    for _ in range(restarts):
        optimizer = torch.optim.LBFGS(
            points,
            max_iter=steps,
            tolerance_grad=1e-14,
            tolerance_change=0.0,
            history_size=50,
            line_search_fn="strong_wolfe",
        )

        def closure(optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                value = objective(list(points))
            value.backward()
            return value.detach()

        optimizer.step(closure)
        value = _value(objective, points)
        if not value < lowest:
            break
        best, lowest = [point.detach().clone() for point in points], value
    return best


def proximal_gradient(
    smooth: Objective,
    penalty: Objective,
    prox: Prox,
    start: Sequence[Tensor],
    *,
    steps: int = 20_000,
    tolerance: float = 1e-13,
) -> list[Tensor]:
    """A minimum of `smooth + penalty`, where the penalty has kinks but a known proximal step.

    x' = prox(z - step * gradient(z), step),   z = x + momentum * (x - x of the step before)

    The step is halved until the quadratic bound holds. When the objective rises, the momentum
    starts again from zero.

    Args:
        smooth, penalty: of a list of tensors.
        prox: of the penalty.
        start: left as they are.
        steps: at most.
        tolerance: it ends when no entry moves by more, in units of the largest entry.

    Source: Beck and Teboulle 2009, A fast iterative shrinkage-thresholding algorithm, section 4;
    restarts by the value of O'Donoghue and Candes 2015, arXiv 1204.3982, section 3.2.
    """
    now = [tensor.detach().clone() for tensor in start]
    ahead, momentum, step = now, 1.0, 1.0
    lowest = _value(smooth, now) + _value(penalty, now)
    for _ in range(steps):
        value, slopes = _value_and_slopes(smooth, ahead)
        while True:
            moved = prox([a - step * g for a, g in zip(ahead, slopes, strict=True)], step)
            ways = [m - a for m, a in zip(moved, ahead, strict=True)]
            bound = sum(
                float((w * g).sum() + w.square().sum() / (2 * step))
                for w, g in zip(ways, slopes, strict=True)
            )
            # Below the rounding of the value itself, the bound says nothing any more.
            if _value(smooth, moved) <= value + bound + 1e-15 * abs(value) or step < 1e-12:
                break
            step /= 2
        reached = _value(smooth, moved) + _value(penalty, moved)
        if reached > lowest and momentum > 1.0:
            ahead, momentum = now, 1.0
            continue
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pull = (momentum - 1) / following
        size = max(float(m.abs().max()) for m in moved if m.numel())
        change = max(float((m - n).abs().max()) for m, n in zip(moved, now, strict=True))
        ahead = [m + pull * (m - n) for m, n in zip(moved, now, strict=True)]
        now, momentum, lowest = moved, following, min(lowest, reached)
        if change <= tolerance * max(size, 1.0):
            break
    return now


def gradient_flow(
    objective: Objective, start: Sequence[Tensor], *, time: float, steps: int
) -> list[Tensor]:
    """Where dx/dt = -gradient leads from `start`, by the classical Runge-Kutta method.

    Args:
        objective: smooth along the way.
        start: left as they are.
        time: how long it flows; the error falls as (time / steps)**4.
        steps: of equal length.

    >>> ones = torch.ones(1, dtype=torch.float64)
    >>> end = gradient_flow(lambda x: x[0].square().sum() / 2, [ones], time=1.0, steps=100)
    >>> round(float(end[0]), 8)  # exp(-1)
    0.36787944
    """
    length = time / steps
    points = [tensor.detach().clone() for tensor in start]
    for _ in range(steps):
        a = _value_and_slopes(objective, points)[1]
        b = _value_and_slopes(objective, _moved(points, a, length / 2))[1]
        c = _value_and_slopes(objective, _moved(points, b, length / 2))[1]
        d = _value_and_slopes(objective, _moved(points, c, length))[1]
        mean = [(p + 2 * q + 2 * r + s) / 6 for p, q, r, s in zip(a, b, c, d, strict=True)]
        points = _moved(points, mean, length)
    return points


def _moved(points: list[Tensor], slopes: list[Tensor], length: float) -> list[Tensor]:
    return [point - length * slope for point, slope in zip(points, slopes, strict=True)]


def _value(objective: Objective, points: list[Tensor]) -> float:
    with torch.no_grad():
        return float(objective([point.detach() for point in points]))


def _value_and_slopes(objective: Objective, points: list[Tensor]) -> tuple[float, list[Tensor]]:
    leaves = [point.detach().requires_grad_() for point in points]
    with torch.enable_grad():
        value = objective(list(leaves))
    slopes = torch.autograd.grad(value, leaves, materialize_grads=True)
    return float(value.detach()), list(slopes)

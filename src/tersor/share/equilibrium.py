"""A layer applied until nothing changes: infinite depth in the memory of one application.

z = f(z, x);   dL/d(...) = u df/d(...) with u = dL/dz + u df/dz, solved as the first equation is
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError


class Equilibrium(nn.Module):
    """The fixed point of a layer, with the gradient of the implicit function theorem.

    Args:
        layer: (z, x) to the next z, of the shape of z. For there to be one point, near to which
            it is found, it must be a contraction; where it is none, `residual` tells.
        tolerance: ||f(z) - z|| / ||f(z)|| at which it is found, forward and backward.
        most: applications, at the most.
        memory: past points that Anderson's step combines.

    Attributes:
        residual: ||f(z) - z|| / ||f(z)|| of the last call.

    Raises:
        ConfigError: a setting is out of range.

    Source: Bai, Kolter and Koltun 2019, arXiv 1909.01377, theorem 1, with Anderson's steps
        instead of Broyden's.

    >>> _ = torch.manual_seed(0)
    >>> mix = nn.Linear(3, 3).double()
    >>> model = Equilibrium(lambda z, x: torch.tanh(0.5 * mix(z) + x))
    >>> x = torch.randn(2, 3, dtype=torch.float64)
    >>> z = model(x, torch.zeros_like(x))
    >>> torch.allclose(z, torch.tanh(0.5 * mix(z) + x), atol=1e-3), model.residual < 1e-4
    (True, True)
    """

    def __init__(
        self,
        layer: Callable[[Tensor, Tensor], Tensor],
        *,
        tolerance: float = 1e-4,
        most: int = 50,
        memory: int = 5,
    ) -> None:
        super().__init__()
        if not 0 < tolerance < 1 or most < 1 or memory < 1:
            raise ConfigError(
                f"tolerance {tolerance}, most {most}, memory {memory}; "
                "expected 0 < tolerance < 1, and 1 or more"
            )
        self.layer = layer
        self.tolerance, self.most, self.memory = tolerance, most, memory
        self.residual = float("nan")

    def forward(self, inputs: Tensor, start: Tensor) -> Tensor:
        """The fixed point for these inputs, sought from `start`, whose shape it has."""
        with torch.no_grad():
            point, self.residual = self._solve(lambda z: self.layer(z, inputs), start)
        if not torch.is_grad_enabled():
            return point
        output = self.layer(point, inputs)  # one application that autograd sees
        if not output.requires_grad:
            return output
        point = point.detach().requires_grad_()
        again = self.layer(point, inputs)

        def solved(gradient: Tensor) -> Tensor:
            def step(u: Tensor) -> Tensor:
                (along,) = torch.autograd.grad(again, point, u, retain_graph=True)
                return gradient + along

            return self._solve(step, gradient)[0]

        output.register_hook(solved)
        return output

    def _solve(self, step: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, float]:
        return anderson(step, start, tolerance=self.tolerance, most=self.most, memory=self.memory)


def anderson(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 1e-4,
    most: int = 50,
    memory: int = 5,
) -> tuple[Tensor, float]:
    """A fixed point of `step`, and ||step(z) - z|| / ||step(z)|| there.

    The next point is the mean of the last results, with weights that sum to 1 and make the mean
    of their residuals least.

    Source: Anderson 1965; Walker and Ni 2011, SIAM J. Numer. Anal. 49(4), without damping.

    >>> point, residual = anderson(torch.cos, torch.ones(1, dtype=torch.float64), tolerance=1e-9)
    >>> round(float(point), 6)
    0.739085
    """
    points: list[Tensor] = []
    results: list[Tensor] = []
    point = start
    for _ in range(most):
        result = step(point)
        difference = float(torch.linalg.vector_norm(result - point))
        size = float(torch.linalg.vector_norm(result))
        residual = difference / max(size, torch.finfo(result.dtype).tiny)
        if residual <= tolerance:
            break
        points, results = [*points, point][-memory:], [*results, result][-memory:]
        point = _combined(points, results)
    return result, residual


def _combined(points: list[Tensor], results: list[Tensor]) -> Tensor:
    """The next point of `anderson`."""
    residuals = torch.stack([r - p for r, p in zip(results, points, strict=True)]).flatten(1)
    last, *_ = residuals.flip(0)
    if len(points) == 1:
        return results[-1]
    steps = (residuals[:-1] - last).T  # (n, memory - 1)
    gram = (steps.T @ steps).double()
    gram += (
        1e-12 * gram.diagonal().sum() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    )
    weights = torch.linalg.lstsq(gram, -(steps.T @ last).double()[:, None]).solution[:, 0]
    weights = weights.to(last.dtype)
    mixed: Tensor = (1 - weights.sum()) * results[-1]
    for weight, result in zip(weights, results[:-1], strict=True):
        mixed = mixed + weight * result
    return mixed

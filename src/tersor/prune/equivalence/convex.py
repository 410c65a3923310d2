"""The least of a group-lasso problem for ReLU units, without a network and without local minima.

The units that are on for the same samples are one linear map there, so for enough units the problem
is convex: a map for each pattern of samples and each sign, kept in the cone where the pattern is
the right one. It is solved by splitting, in which the group lasso is a proximal step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator
from tersor.prune.equivalence.units import UnitForm
from tersor.prune.learned.proximal import group_soft_threshold

_STEP = 0.3  # of the splitting; any gives the same in the end
_RELAXED = 1.6


def activation_patterns(inputs: Tensor, *, draws: int = 10_000, seed: int = 0) -> Tensor:
    """For which samples a unit is on: the different rows of inputs @ u > 0 for random u.

    For N samples in general position there are 2 * sum_{k < in} binom(N - 1, k) of them, and few
    samples in few dimensions have them all after some thousand draws.

    Shapes: (N, in) -> (patterns, N), bool.

    >>> len(activation_patterns(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]])))  # 2 (1 + 2)
    6
    """
    random = generator(seed, "activation patterns")
    turned = torch.randn(inputs.shape[1], draws, generator=random, dtype=torch.float64)
    found: Tensor = torch.unique(inputs.double() @ turned > 0, dim=1).T
    return found


def relu_group_lasso(
    inputs: Tensor,
    targets: Tensor,
    decay: float,
    *,
    bias: bool = False,
    patterns: Tensor | None = None,
    steps: int = 50_000,
    tolerance: float = 1e-12,
) -> UnitForm:
    """argmin over units of |sum_j s_j relu(beta_j . x + gamma_j) - y|**2 + 2 decay sum_j |beta_j|.

    min |sum_i D_i X (v_i - w_i) - y|**2 + 2 decay * sum_i (|v_i| + |w_i|)
        so that (2 D_i - I) X v_i >= 0 and (2 D_i - I) X w_i >= 0,   D_i = diag(pattern i)

    Args:
        inputs: (N, in).
        targets: (N,).
        decay: above 0.
        bias: units have a gamma, without penalty, and there is an offset. What units with beta = 0
            give is part of the offset: a network only comes near it in its second layer.
        patterns: `activation_patterns` of the inputs (with bias: with a column of ones).
        steps: at most.
        tolerance: it ends when nothing moves by more.

    Returns:
        The units that are not zero, float64; the least of all, if the patterns are complete.

    Raises:
        ConfigError: the decay is not above 0.

    Source: Pilanci and Ergen 2020, arXiv 2002.10553, theorem 1, with their penalty in the scale of
    `UnitForm.penalty`; the splitting is that of Boyd et al. 2011, Distributed optimization and
    statistical learning via ADMM, sections 3.4.3 and 5.

    >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    >>> form = relu_group_lasso(x, 3 * x[:, 0].relu(), 0.1)
    >>> form.beta.shape, round(float(form.beta), 9)  # one unit, 0.1 / sum of x**2 = 0.08 too short
    (torch.Size([1, 1]), 2.92)
    """
    if not decay > 0:
        raise ConfigError(f"relu_group_lasso: decay {decay}; expected a number above 0")
    x, y = inputs.double(), targets.double()
    if bias:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    gates = (activation_patterns(x) if patterns is None else patterns).double()
    signs = torch.cat([gates.new_ones(len(gates)), -gates.new_ones(len(gates))])
    gates = torch.cat([gates, gates])
    groups = _split(x, y, gates, signs, decay, x.shape[1] - bias, steps, tolerance)
    return _as_units(groups, signs, bias)


def _split(
    x: Tensor,
    y: Tensor,
    gates: Tensor,
    signs: Tensor,
    decay: float,
    penalised: int,
    steps: int,
    tolerance: float,
) -> Tensor:
    """The maps (groups, in), by turns least squares, the penalty's step, and into the cones."""
    count, width = len(gates), x.shape[1]
    seen = (signs[:, None] * gates)[:, :, None] * x  # (groups, N, in)
    sided = (2 * gates - 1)[:, :, None] * x
    flat = seen.transpose(0, 1).reshape(len(x), count * width)
    cones = torch.block_diag(*(sided.mT @ sided))
    inner = 2 * flat.T @ flat + _STEP * (cones + torch.eye(count * width, dtype=x.dtype))
    root = torch.linalg.cholesky(inner)
    pull = 2 * flat.T @ y
    z, u = x.new_zeros(count, width), x.new_zeros(count, width)
    s, t = x.new_zeros(count, len(x)), x.new_zeros(count, len(x))
    threshold = 2 * decay / _STEP / penalised**0.5  # it is taken times the root of a group's size
    for _ in range(steps):
        back = (sided.mT @ (s - t)[:, :, None])[:, :, 0]
        right = pull + _STEP * (z - u + back).reshape(-1)
        least = torch.cholesky_solve(right[:, None], root).view(count, width)
        images = (sided @ least[:, :, None])[:, :, 0]
        relaxed = _RELAXED * least + (1 - _RELAXED) * z
        relaxed_images = _RELAXED * images + (1 - _RELAXED) * s
        z_before, s_before = z, s
        shrunk = group_soft_threshold((relaxed + u)[:, :penalised], threshold, (1,))
        z = torch.cat([shrunk, (relaxed + u)[:, penalised:]], dim=1)
        s = (relaxed_images + t).clamp(min=0)
        u = u + relaxed - z
        t = t + relaxed_images - s
        moved = ((least - z), (images - s), (z - z_before), (s - s_before))
        if max(float(m.abs().max()) for m in moved) < tolerance:
            break
    return z


def _as_units(groups: Tensor, signs: Tensor, bias: bool) -> UnitForm:
    if not bias:
        used = groups.ne(0).any(dim=1)
        return UnitForm(groups[used], None, signs[used, None], None)
    beta, gamma = groups[:, :-1], groups[:, -1]
    used = beta.ne(0).any(dim=1)
    offset = (signs * gamma.relu())[~used].sum()[None]
    return UnitForm(beta[used], gamma[used], signs[used, None], offset)

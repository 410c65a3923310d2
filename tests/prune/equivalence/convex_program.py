"""The least of a two-layer ReLU problem with weight decay, found without any network.

Pilanci and Ergen 2020, arXiv 2002.10553, theorem 1: for enough units it is the convex program

min |sum_i D_i X (v_i - w_i) - y|**2 + 2 decay * sum_i |v_i| + |w_i|
    so that (2 D_i - I) X v_i >= 0 and (2 D_i - I) X w_i >= 0

over all patterns D_i = diag(X u >= 0) that some u has. For two inputs these are found by turning u.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def patterns(inputs: np.ndarray) -> np.ndarray:
    """All patterns, (patterns, N): between any two angles at which a sample changes sides."""
    at_a_right_angle = np.arctan2(inputs[:, 1], inputs[:, 0]) + np.pi / 2
    edges = np.sort(np.concatenate([at_a_right_angle, at_a_right_angle + np.pi]) % (2 * np.pi))
    middles = (edges + np.append(edges[1:], edges[0] + 2 * np.pi)) / 2
    turned = np.stack([np.cos(middles), np.sin(middles)])
    return np.unique((inputs @ turned > 0).T, axis=0).astype(float)


def least(inputs: np.ndarray, targets: np.ndarray, decay: float) -> float:
    """The value of the program for inputs (N, 2) and targets (N,)."""
    gates = patterns(inputs)
    count, width = gates.shape[0], inputs.shape[1]
    seen = gates[:, :, None] * inputs  # (patterns, N, 2)
    sided = np.concatenate([(2 * gates - 1)[:, :, None] * inputs] * 2)
    constraints = np.zeros((2 * count, inputs.shape[0], 2 * count, width))
    for group in range(2 * count):
        constraints[group, :, group] = sided[group]
    constraints = constraints.reshape(2 * count * inputs.shape[0], 2 * count * width)

    def value(flat: np.ndarray, rounding: float = 0.0) -> tuple[float, np.ndarray]:
        groups = flat.reshape(2, count, width)
        wrong = np.einsum("mnd,md->n", seen, groups[0] - groups[1]) - targets
        lengths = np.sqrt((groups**2).sum(-1) + rounding)
        slope = np.einsum("mnd,n->md", seen, 2 * wrong)
        pull = 2 * decay * groups / np.maximum(lengths, 1e-300)[..., None]
        return (wrong**2).sum() + 2 * decay * lengths.sum(), (
            np.stack([slope, -slope]) + pull
        ).ravel()

    found = np.random.default_rng(0).standard_normal(2 * count * width) / 10
    for rounding in (1e-4, 1e-8, 1e-12, 1e-16):  # the norm has a kink at zero
        found = minimize(
            value,
            found,
            args=(rounding,),
            jac=True,
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda x: constraints @ x,
                "jac": lambda x: constraints,
            },
            options={"maxiter": 300, "ftol": 1e-14},
        ).x
    assert (constraints @ found).min() > -1e-9
    return float(value(found)[0])

"""Weight decay as lasso, l_p and group lasso: solver against trained network, as numbers.

python experiments/equivalences/run.py          # needs scikit-learn, and no data
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from running import kept, options, put, table
from torch import Tensor, nn

from tersor.core.seeding import generator, seed_everything
from tersor.prune.equivalence import (
    conservation_error,
    decay_penalty,
    decayed,
    imbalance,
    lp_threshold,
    penalised,
    product_of,
    relu_group_lasso,
    rescale_,
    train_factors,
    train_units_,
)

FOLDER = Path(__file__).parent
TOLERANCE = 1e-6


def main() -> None:
    given = options(__doc__)
    seeds = list(range(given.seeds))
    parts = {
        "lasso": [lasso_row(seeds, decay) for decay in (5.0, 20.0)],
        "lp": [lp_row(seeds, depth) for depth in (3, 4)],
        "group-lasso": [relu_row(seeds, bias, given.quick) for bias in (False, True)],
        "laws": [conservation_row(seeds, decay) for decay in (0.0, 0.3)] + [rescaling_row(seeds)],
    }
    for name, rows in parts.items():
        print(f"\n{name}\n\n{table(rows)}")
        if given.write:
            put(FOLDER / "README.md", name, table(rows))


def lasso_row(seeds: Sequence[int], decay: float) -> dict[str, Any]:
    """T1: scikit-learn's lasso, and a two-layer diagonal network with weight decay."""
    from sklearn.linear_model import Lasso

    value, apart, balance, zeros = [], [], [], []
    for seed in seeds:
        x, y, loss = _regression(seed)
        oracle = Lasso(alpha=decay / len(y), fit_intercept=False, tol=1e-14, max_iter=100_000)
        beta = torch.from_numpy(oracle.fit(x.numpy(), y.numpy()).coef_)
        net = train_factors(loss, _factors(seed, 2), decay)
        value.append(float(decayed(loss, net, decay) - penalised(loss, beta, decay)))
        apart.append(float((product_of(net) - beta).abs().max()))
        balance.append(float(imbalance(net).abs().max()))
        zeros.append(torch.equal(product_of(net).abs() > TOLERANCE, beta != 0))
    return {
        "decay": decay,
        "difference of the values": _worst(value),
        "of the coefficients": _worst(apart),
        "imbalance": _worst(balance),
        "same zeros": f"{sum(zeros)} of {len(zeros)}",
    }


def lp_row(seeds: Sequence[int], depth: int) -> dict[str, Any]:
    """T2: k factors on an orthogonal design, the best of 12 starts in each entry."""
    gaps, missed = [], 0
    for seed in seeds:
        targets = 2 * torch.randn(8, generator=generator(seed, "targets"), dtype=torch.float64)
        decay = 0.25
        square = _square(targets)
        nets = [train_factors(square, _factors(100 * seed + s, depth, 8), decay) for s in range(12)]
        each = torch.stack(
            [
                (targets - product_of(net)).square() + decay * sum(u.square() for u in net)
                for net in nets
            ]
        )
        best = lp_threshold(targets, decay, depth)
        least = (targets - best).square() + depth * decay * best.abs().pow(2 / depth)
        gaps.append(float((each.amin(dim=0) - least).abs().max()))
        missed += int((each > least + TOLERANCE).sum())
    return {
        "factors": depth,
        "penalty": f"l_p, p = 2/{depth}",
        "difference of the least values": _worst(gaps),
        "starts that ended in a worse minimum": f"{missed} of {12 * 8 * len(seeds)}",
    }


def relu_row(seeds: Sequence[int], bias: bool, quick: bool) -> dict[str, Any]:
    """T3: the convex program, and ReLU networks of 12 units from 4 starts."""
    starts = 2 if quick else 4
    built, gaps, reached = [], [], 0
    for seed in seeds:
        settings = {"part": "relu", "seed": seed, "bias": bias, "starts": starts}
        found = kept(FOLDER, settings, lambda seed=seed: _relu(seed, bias, starts))
        built.append(_as_network(seed, bias))
        gaps.append(f"{min(found):.1e}")
        reached += sum(abs(gap) < TOLERANCE for gap in found)
    return {
        "biases": "yes, without decay" if bias else "none",
        "solution as a network, above the least": _worst(built),
        "best trained network above it, each seed": ", ".join(gaps),
        f"starts within {TOLERANCE:g}": f"{reached} of {starts * len(seeds)}",
    }


def _problem(seed: int) -> tuple[Tensor, Tensor]:
    random = generator(seed, "relu")
    x = torch.randn(6, 2, generator=random, dtype=torch.float64)
    return x, torch.randn(6, generator=random, dtype=torch.float64)


def _as_network(seed: int, bias: bool) -> float:
    """The decayed value of the two layers that the solution stands for, minus its own value."""
    x, y = _problem(seed)
    form = relu_group_lasso(x, y, 0.2, bias=bias)
    first, second = form.layers()
    with torch.no_grad():
        value = (second(torch.relu(first(x)))[:, 0] - y).square().sum()
        value = value + 0.2 * decay_penalty(first, second)
        least = (form.outputs(x)[:, 0] - y).square().sum() + 0.2 * form.penalty()
    return float(value - least)


def _relu(seed: int, bias: bool, starts: int) -> list[float]:
    x, y = _problem(seed)
    form = relu_group_lasso(x, y, 0.2, bias=bias)
    least = (form.outputs(x)[:, 0] - y).square().sum() + 0.2 * form.penalty()
    gaps = []
    for start in range(starts):
        seed_everything(seed, "network", start)
        first = nn.Linear(2, 12, bias=bias, dtype=torch.float64)
        second = nn.Linear(12, 1, bias=bias, dtype=torch.float64)
        value = train_units_(first, second, lambda out: (out[:, 0] - y).square().sum(), x, 0.2)
        gaps.append(value - float(least))
    return gaps


def conservation_row(seeds: Sequence[int], decay: float) -> dict[str, Any]:
    """u**2 - v**2 under gradient flow."""
    errors = []
    for seed in seeds:
        _, _, loss = _regression(seed, samples=6, width=3)
        start = _factors(seed, 2, 3)
        errors.append(conservation_error(loss, start, decay, time=0.05, steps=500))
    law = "is conserved" if decay == 0 else f"decays as exp(-{4 * decay:g} t)"
    return {"law": f"u^2 - v^2 {law}", "largest error": _worst(errors)}


def rescaling_row(seeds: Sequence[int]) -> dict[str, Any]:
    """The outputs of a ReLU network before and after its units are balanced."""
    errors = []
    for seed in seeds:
        seed_everything(seed, "rescaling")
        first, second = nn.Linear(5, 30).double(), nn.Linear(30, 4).double()
        x = torch.randn(50, 5, dtype=torch.float64)
        with torch.no_grad():
            before = second(torch.relu(first(x)))
            rescale_(first, second)
            errors.append(float((second(torch.relu(first(x))) - before).abs().max()))
    return {"law": "rescale_ leaves the function", "largest error": _worst(errors)}


def _regression(
    seed: int, samples: int = 40, width: int = 12
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    random = generator(seed, "regression")
    x = torch.randn(samples, width, generator=random, dtype=torch.float64)
    truth = torch.zeros(width, dtype=torch.float64)
    truth[:3] = torch.tensor([3.0, -2.0, 1.5])
    y = x @ truth + 0.5 * torch.randn(samples, generator=random, dtype=torch.float64)
    return x, y, lambda beta: (y - x @ beta).square().sum()


def _square(targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda beta: (targets - beta).square().sum()


def _factors(seed: int, depth: int, width: int = 12) -> list[Tensor]:
    random = generator(seed, "factors")
    return [torch.randn(width, generator=random, dtype=torch.float64) for _ in range(depth)]


def _worst(values: Sequence[float]) -> str:
    return f"{max(values, key=abs):.1e}"


if __name__ == "__main__":
    main()

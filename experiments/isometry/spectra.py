"""Singular values of the input-output Jacobian against sparsity, before and after isometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from networks import draw, enforce, mnist, prune
from running import kept, table

from tersor.core.errors import ConfigError
from tersor.measure.jacobian import Spectrum, jacobian_spectrum

DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
CRITERIA = ("random", "magnitude", "snip")
EXAMPLES = 200


def run(criterion: str, density: float, seed: int, data_dir: str | None) -> dict[str, Any]:
    task = mnist(data_dir)
    inputs = next(iter(task.validation))[0][:EXAMPLES]
    net = draw(7, "tanh", "orthogonal", seed)
    found = {}
    masks = None
    if density < 1:
        try:
            masks = prune(net, density, criterion, task, seed)
        except ConfigError:  # it would leave a layer empty
            return {}
    found["pruned"] = _numbers(jacobian_spectrum(net, inputs))
    if masks is not None:
        enforce(net, masks)
        found["isometric"] = _numbers(jacobian_spectrum(net, inputs))
    return found


def _numbers(spectrum: Spectrum) -> dict[str, float]:
    return {n: getattr(spectrum, n) for n in ("mean", "std", "min", "max")}


def main(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    densities = (1.0, 0.5, 0.1) if quick else DENSITIES
    rows = []
    for density in densities:
        row = {"sparsity %": f"{100 * (1 - density):.0f}"}
        for criterion in CRITERIA:
            results = [
                kept(
                    folder,
                    {"part": "spectra", "criterion": criterion, "density": density, "seed": seed},
                    lambda c=criterion, d=density, s=seed: run(c, d, s, data_dir),
                )
                for seed in range(seeds)
            ]
            if not all(results):
                row[f"{criterion}, pruned"] = "a layer is empty"
                continue
            for stage in ("pruned", "isometric"):
                if stage in results[0]:
                    mean, std = (
                        sum(r[stage][n] for r in results) / len(results) for n in ("mean", "std")
                    )
                    row[f"{criterion}, {stage}"] = f"{mean:.3g} ± {std:.2g}"
        rows.append(row)
    return table(rows)

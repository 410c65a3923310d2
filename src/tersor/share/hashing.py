"""Hash the weights of a model: of n weights K numbers and a seed remain."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.seeding import derive
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.share.buckets import STARTS, bucket_count, drop_buckets_, take_buckets_, virtual_weight
from tersor.share.hashed_layers import HASHED
from tersor.share.mixing import MAX_BUCKETS


def hash_(
    model: nn.Module,
    density: float | Mapping[str, float],
    *,
    seed: int = 0,
    start: str = "keep",
    even: bool = False,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Make the weights of a model hashed ones, in place: K = ceil(n * density) buckets each.

    The biases stay. Make the optimizer afterwards, as the parameters are others.

    Args:
        model: its layers become `HashedLinear`, `HashedConv2d` and so on.
        density: buckets / weights, 0 < density <= 1; or one for each of some selectors.
        seed: each layer's own seed comes from this and its name.
        start: "keep": the buckets that are nearest to the weights in least squares, the means of
            their signed entries; "fresh": K of the layer's own weights, drawn by the seed, so
            that the virtual weights have the variance with which the dense ones were drawn. For
            hashing before training "fresh" is right: means of n / K random weights are small.
        even: every bucket has as many weights as any other, give or take one.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        A report; "rms error" is that of the virtual weights against those before.

    Raises:
        ConfigError: the density is out of range, `start` is unknown, no weight can be hashed, a
            weight is not finite.

    Source: as `HashedLinear`; the least-squares start is ours.

    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> report = hash_(model, 1 / 64, start="fresh")
    >>> [(row["name"], row["buckets"]) for row in report.rows]
    [('0.weight', 1225), ('2.weight', 16)]
    """
    look_up("start", start, STARTS)
    for value in density.values() if isinstance(density, Mapping) else [density]:
        bucket_count(1, value)
    found, skipped = survey(model, select=select, ignore=ignore)
    unfit = {weight.name: reason for weight in found if (reason := _unfit(model, weight))}
    skipped |= unfit
    weights = [weight for weight in found if weight.name not in unfit]
    if not weights:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(unfit.items())[:3])
        raise ConfigError(f"hash_: no weight of {type(model).__name__} can be hashed ({reasons})")
    if isinstance(density, Mapping):
        densities = assign(model, density, weights, what="density")
        skipped |= {w.name: "no density given" for w in weights if w.name not in densities}
        weights = [weight for weight in weights if weight.name in densities]
    else:
        densities = {weight.name: density for weight in weights}
    rows: list[dict[str, Value]] = []
    for weight in weights:
        count = weight.parameter.numel()
        buckets = bucket_count(count, densities[weight.name])
        before = weight.parameter.detach()
        to_hashed_(weight.module, buckets, derive(seed, "hash", weight.name), even, start)
        difference = (virtual_weight(weight.module).detach() - before).double()
        rows.append(
            {
                "name": weight.name,
                "shape": "x".join(map(str, weight.shape)),
                "weights": count,
                "buckets": buckets,
                "density": buckets / count,
                "rms error": float(difference.square().mean().sqrt()),
            }
        )
    total, kept = (sum(int(row[key] or 0) for row in rows) for key in ("weights", "buckets"))
    return Report(
        "Hashed weights",
        {"weights": total, "buckets": kept, "density reached": kept / total, "start": start},
        rows,
        skipped,
        ["A file holds buckets and seeds; in memory the codes take as much as the dense weights."],
    )


def to_hashed_(layer: nn.Module, buckets: int, seed: int, even: bool, start: str = "fresh") -> None:
    """Make one layer a hashed one, in place. The types in `HASHED` can be."""
    layer.__class__ = HASHED[type(layer)]
    take_buckets_(layer, buckets, seed, even, STARTS[start])


def to_plain_(layer: nn.Module) -> None:
    """Make a hashed layer the plain layer of torch with the same weight, in place."""
    weight = drop_buckets_(layer)
    layer.__class__ = next(plain for plain, hashed in HASHED.items() if hashed is type(layer))
    layer._parameters = {"weight": weight, **layer._parameters}


def _unfit(model: nn.Module, weight: Weight) -> str:
    """Why a weight cannot be hashed, or ""."""
    if type(weight.module) not in HASHED:
        known = ", ".join(kind.__name__ for kind in HASHED if "NonDyn" not in kind.__name__)
        return f"of {type(weight.module).__name__}; expected {known}"
    holders = [
        m for m in model.modules() if any(p is weight.parameter for p in m._parameters.values())
    ]
    if len(holders) > 1:
        return f"tied with {weight.aliases[0]}: hashed alone it would be untied"
    if getattr(weight.module, "max_norm", None) is not None:
        return "max_norm changes vectors in place, which a hashed one does not have"
    if not 0 < weight.parameter.numel() <= MAX_BUCKETS:
        return f"{weight.parameter.numel():,} weights; expected 1 to {MAX_BUCKETS:,}"
    if not bool(torch.isfinite(weight.parameter).all()):
        raise ConfigError(f"hash_: {weight.name!r} is not finite")
    return ""

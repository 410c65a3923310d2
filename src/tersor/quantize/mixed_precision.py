"""A quantizer for each weight of a network, such that all of them keep within a budget of bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.derivatives import Loss
from tersor.core.errors import ConfigError
from tersor.core.observing import observing
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.weights import Selectors, survey
from tersor.quantize.bit_allocation import Costs, allocate_bits
from tersor.quantize.bit_costs import SENSITIVITIES, WITHOUT_DATA, Cost, Sensitivity, Trial
from tersor.quantize.curvature import Batches
from tersor.quantize.quantizer import Quantizer, label
from tersor.quantize.transform import check_shaped, kept_entries


def mixed_precision(
    model: nn.Module,
    quantizers: Sequence[Quantizer],
    budget: float | None = None,
    *,
    size_bytes: float | None = None,
    sensitivity: str | Sensitivity = "loss",
    data: Iterable[Any] | None = None,
    batches: int | None = None,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    masks: Mapping[str, Tensor] | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, Quantizer], Report]:
    """Choose a quantizer for each weight: the least sum of costs that a budget of bits allows.

    The model is looked at and stays as it is. What comes out is for `quantize_`, `gptq_` or
    `QuantizedTraining`, with the same `masks`.

    Args:
        quantizers: to choose from, of several widths, as [Affine(b) for b in (2, 3, 4, 6, 8)].
        budget: bits of a code on average over the kept weights. Scales and tables are not counted.
        size_bytes: or all codes together, in bytes.
        sensitivity: how the costs are told, a name of `SENSITIVITIES` or a function:

            | name | cost of a weight | looks at data |
            | --- | --- | --- |
            | `loss` | how much the loss rises when it alone is quantized | a pass for each width |
            | `sqnr` | squared error / squared weights | no |
            | `hawq` | squared error times the Hessian's top eigenvalue / 2 | up to 100 products |
            | `hawq_v2` | squared error times the Hessian's mean diagonal / 2 | 32 products |
            | `q_bert` | as `hawq`, by shares of the data | up to 100 products for each share |

        data: batches of (inputs, targets); not for "sqnr".
        batches: look at the first so many; None: at all. They are held in memory.
        loss: `outputs, targets -> scalar`, the mean over the batch.
        seed: of random vectors.
        masks: which weights are kept, by name; a tensor without a mask keeps its non-zero ones.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        Name of a weight to its quantizer, and a report: of each weight its bits and what they cost,
        beside what the other widths would.

    Raises:
        ConfigError: no quantizers, one that cannot take a weight, a budget below the smallest
            widths, data that is missing, a loss that is not finite.

    Source: Dong et al. 2020, HAWQ-V2, arXiv 1911.03852, section 4, for the sum that is minimised;
    the minimum is exact (`allocate_bits`).

    >>> import torch
    >>> from tersor.quantize import Affine, quantize_
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    >>> data = [(torch.randn(32, 16), torch.randint(4, (32,)))]
    >>> chosen, report = mixed_precision(model, [Affine(b) for b in (2, 4, 8)], 4, data=data)
    >>> report.summary["bits a weight"] <= 4
    True
    >>> sorted(chosen), len(quantize_(model, chosen).rows)
    (['0.weight', '2.weight'], 2)
    """
    trials, skipped = trials_of(model, quantizers, masks, select, ignore)
    # A budget that nothing fits into is refused before anything is measured.
    free = {trial.weight.name: dict.fromkeys(trial.widths(), 0.0) for trial in trials}
    sizes = {trial.weight.name: int(trial.kept.sum()) for trial in trials}
    allocate_bits(free, sizes, budget=budget, size_bytes=size_bytes)
    told = Told.of(model, trials, sensitivity, data, batches, loss, seed)
    return told.chosen(budget, size_bytes, skipped)


@dataclass(frozen=True)
class Told:
    """The costs of some trials, told once for any budget.

    Args:
        sensitivity: the name of what told them.
        trials, costs: in the same order.
    """

    sensitivity: str
    trials: Sequence[Trial]
    costs: Sequence[Cost]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        trials: Sequence[Trial],
        sensitivity: str | Sensitivity,
        data: Iterable[Any] | None,
        batches: int | None,
        loss: Loss,
        seed: int,
    ) -> Told:
        """Ask a rule; arguments as those of `mixed_precision`."""
        rule = look_up("sensitivity", sensitivity, SENSITIVITIES)
        seen = [] if rule in WITHOUT_DATA else _held(model, data, batches)
        name = sensitivity if isinstance(sensitivity, str) else _name_of(rule)
        return cls(name, trials, rule(model, trials, seen, loss, seed))

    def chosen(
        self, budget: float | None, size_bytes: float | None, skipped: Mapping[str, str]
    ) -> tuple[dict[str, Quantizer], Report]:
        """The best quantizers within a budget, and the report on them."""
        names = [trial.weight.name for trial in self.trials]
        sizes = {trial.weight.name: int(trial.kept.sum()) for trial in self.trials}
        ways = {
            name: _cheapest(trial, cost.each)
            for name, trial, cost in zip(names, self.trials, self.costs, strict=True)
        }
        costs = {name: {bits: way[0] for bits, way in ways[name].items()} for name in ways}
        widths = allocate_bits(costs, sizes, budget=budget, size_bytes=size_bytes)
        chosen = {name: ways[name][bits][1] for name, bits in widths.items()}
        rows: list[dict[str, Value]] = []
        for (name, bits), cost in zip(widths.items(), self.costs, strict=True):
            rows.append({"name": name, "kept": sizes[name], "quantizer": label(chosen[name])})
            rows[-1] |= {"bits": bits, **cost.told}
            rows[-1] |= {f"cost at {width:g}": c for width, c in sorted(costs[name].items())}
        summary: dict[str, Value] = {"sensitivity": self.sensitivity}
        summary |= {"budget": budget} if budget is not None else {"budget, bytes": size_bytes}
        summary |= _totals(costs, sizes, widths)
        return chosen, Report("Mixed precision", summary, rows, skipped)


def trials_of(
    model: nn.Module,
    quantizers: Sequence[Quantizer],
    masks: Mapping[str, Tensor] | None,
    select: Selectors,
    ignore: Selectors,
) -> tuple[list[Trial], dict[str, str]]:
    """What each weight may become, and what is skipped; arguments as those of `mixed_precision`."""
    if not quantizers:
        raise ConfigError("quantizers: none given; expected some, as [Affine(2), Affine(4)]")
    masks = masks or {}
    weights, skipped = survey(model, select=select, ignore=ignore)
    check_shaped(model, masks, "mask")
    trials = []
    for weight in weights:
        kept = kept_entries(weight, masks)
        if bool(kept.any()):
            trials.append(Trial(weight, kept, quantizers))
        else:
            skipped[weight.name] = "all of its weights are zero"
    if not trials:
        raise ConfigError("mixed_precision: all weights are zero")
    return trials, skipped


def _held(model: nn.Module, data: Iterable[Any] | None, count: int | None) -> Batches:
    """The batches on the model's device: a rule goes through them again and again."""
    if data is None:
        raise ConfigError(
            "mixed_precision: this sensitivity looks at data; expected data=, batches of "
            "(inputs, targets), or sensitivity='sqnr'"
        )
    if count is not None and count < 1:
        raise ConfigError(f"batches: {count}; expected 1 or more, or None for all")
    with observing(model) as device:  # a loader that shuffles moves no generator
        held = [(x.to(device), y.to(device)) for x, y in itertools.islice(data, count)]
    if not held:
        raise ConfigError("data: there are no batches; expected a loader or a list of batches")
    return held


def _cheapest(trial: Trial, costs: Sequence[float]) -> dict[float, tuple[float, Quantizer]]:
    """Each width with the least of its costs and the quantizer, the first one, that has it."""
    found: dict[float, tuple[float, Quantizer]] = {}
    for bits, quantizer, cost in zip(trial.widths(), trial.quantizers, costs, strict=True):
        if bits not in found or cost < found[bits][0]:
            found[bits] = cost, quantizer
    return found


def _totals(
    costs: Costs, sizes: Mapping[str, int], widths: Mapping[str, float]
) -> dict[str, Value]:
    """What was reached, beside the widest width that all weights could have instead."""
    bits, total = sum(sizes[name] * widths[name] for name in widths), sum(sizes.values())
    every = set.intersection(*(set(of) for of in costs.values()))
    even = max((b for b in every if b * total <= bits), default=None)
    totals: dict[str, Value] = {
        "bits a weight": bits / total,
        "bytes of codes": math.ceil(bits / 8),
        "cost": sum(costs[name][widths[name]] for name in widths),
    }
    if even is not None:
        totals[f"cost of {even:g} bits for all"] = sum(of[even] for of in costs.values())
    return totals


def _name_of(rule: Sensitivity) -> str:
    return getattr(rule, "__name__", "a function")

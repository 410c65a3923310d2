"""The fewest bits with which a network is as good as is asked for: what is measured decides."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.derivatives import Loss
from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors
from tersor.quantize.bit_costs import Sensitivity, Trial
from tersor.quantize.mixed_precision import Told, trials_of
from tersor.quantize.quantizer import Quantizer
from tersor.quantize.transform import quantize_


def fewest_bits(
    model: nn.Module,
    quantizers: Sequence[Quantizer],
    evaluate: Callable[[nn.Module], float],
    tolerance: float,
    *,
    resolution: float = 0.1,
    sensitivity: str | Sensitivity = "sqnr",
    data: Iterable[Any] | None = None,
    batches: int | None = None,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    masks: Mapping[str, Tensor] | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, Quantizer], Report]:
    """Choose a quantizer for each weight: the fewest bits that cost no more than a tolerance.

    The budget of `mixed_precision` is halved in on: the whole network is quantized so, evaluated,
    and put back. What is given was measured to be good enough; as the measure need not fall evenly
    with the bits, fewer may by chance be, too.

    Args:
        model: evaluated once for each budget that is tried, and as it is; it stays so.
        evaluate: its loss, or its error, on data that nothing is reported on: lower = better.
        tolerance: what the value may rise by, 0 or more.
        resolution: bits on average, above 0, below which two budgets count as one.
        quantizers, sensitivity, data, batches, loss, seed, masks, select, ignore: as in
            `mixed_precision`; the costs are told once.

    Returns:
        Name of a weight to its quantizer, and a report with what was tried.

    Raises:
        ConfigError: the widest quantizers cost more than the tolerance, a value is not finite, or
            as `mixed_precision`.

    Source: Gysel, Pimentel, Motamedi and Ghiasi 2018, Ristretto, IEEE TNNLS 29, 5784, for formats
    found under a tolerance; there layer after layer, here along the exact allocations.

    >>> from tersor.quantize import Affine
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Linear(64, 64)
    >>> inputs = torch.randn(99, 64)
    >>> wanted = model(inputs).detach()
    >>> grids = [Affine(b) for b in (2, 4, 6, 8)]
    >>> def wrong(model):
    ...     return float((model(inputs).detach() - wanted).square().mean())
    >>> [fewest_bits(model, grids, wrong, t)[0]["weight"].bits for t in (1.0, 1e-2, 1e-4)]
    [2, 4, 6]
    """
    for name, number, least in (("tolerance", tolerance, 0), ("resolution", resolution, 1e-6)):
        if not least <= number < math.inf:
            raise ConfigError(f"{name}: {number}; expected a number of {least} or more")
    trials, skipped = trials_of(model, quantizers, masks, select, ignore)
    told = Told.of(model, trials, sensitivity, data, batches, loss, seed)
    dense = _value(evaluate, model, "as it is")
    rows: list[dict[str, Value]] = []

    def tried(budget: float) -> tuple[dict[str, Quantizer], Report] | None:
        """What this budget gives, if it is good enough."""
        chosen, report = told.chosen(budget, None, skipped)
        with _quantized(model, chosen, masks):
            value = _value(evaluate, model, f"with {budget:g} bits")
        good = value <= dense + tolerance
        rows.append({"budget": budget, "bits a weight": report.summary["bits a weight"]})
        rows[-1] |= {"value": value, "good enough": good}
        return (chosen, report) if good else None

    low, high = (_average(trials, end) for end in (min, max))
    best = tried(high)
    if best is None:
        raise ConfigError(
            f"tolerance {tolerance}: not reachable, with the widest quantizers the value is "
            f"{rows[-1]['value']}, without any {dense}"
        )
    if (least_of_all := tried(low)) is not None:
        best, high = least_of_all, low
    while high - low > resolution:
        middle = (low + high) / 2
        if (found := tried(middle)) is None:
            low = middle
        else:
            best, high = found, middle
    chosen, report = best
    reached: dict[str, Value] = {"as it is": dense, "tolerance": tolerance}
    tries = Report("Budgets that were tried", reached, rows)
    return chosen, dataclasses.replace(report, sections=[tries])


def _average(trials: Sequence[Trial], end: Callable[[Iterable[float]], float]) -> float:
    """Bits on average with the narrowest, or the widest, quantizer of each weight."""
    sizes = [int(trial.kept.sum()) for trial in trials]
    bits = sum(size * end(trial.widths()) for size, trial in zip(sizes, trials, strict=True))
    return bits / sum(sizes)


@contextlib.contextmanager
def _quantized(
    model: nn.Module, chosen: Mapping[str, Quantizer], masks: Mapping[str, Tensor] | None
) -> Iterator[None]:
    """The model with these quantizers; afterwards each of the weights has its bits again."""
    before = {name: model.get_parameter(name).detach().clone() for name in chosen}
    try:
        quantize_(model, chosen, masks=masks)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                model.get_parameter(name).copy_(weight)


def _value(evaluate: Callable[[nn.Module], float], model: nn.Module, how: str) -> float:
    value = float(evaluate(model))
    if not math.isfinite(value):
        raise ConfigError(f"evaluate: {value} for the network {how}; expected a finite number")
    return value

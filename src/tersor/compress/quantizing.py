"""The step `quantize` of a recipe: which quantizers, what comes before and after them, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tersor.compress.steps import Quantize
from tersor.core.hooks import Method
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.core.tables import made
from tersor.prune import FirstBatches
from tersor.quantize import (
    QUANTIZERS,
    CodebookTuner,
    Quantizer,
    codebooks_of,
    quantize_,
    quantize_activations_,
)

if TYPE_CHECKING:
    from tersor.compress.run import Run


def quantize(run: Run, number: int, step: Quantize) -> tuple[list[Report], list[str]]:
    """Quantize weights, and what else the step asks for; the names of the weights."""
    chosen: dict[str, Any] = {"select": step.select or None, "ignore": step.ignore or None}
    seed_everything(run.seed, "quantize")  # decides the batches that are looked at
    report = quantize_(run.model, _quantizers(run, step), masks=run.masks, **chosen)
    reports, names = [report], [str(row["name"]) for row in report.rows]
    if step.activations is not None:
        batches = FirstBatches(run.task.train, step.batches)
        reports.append(quantize_activations_(run.model, batches, bits=step.activations, **chosen))
    if step.epochs and names:
        books = codebooks_of(run.model, select=names)
        methods: list[Method] = [CodebookTuner(run.model, books)]
        reports.append(run.fit(number, step, methods, held=names))
    return reports, names


def _quantizers(run: Run, step: Quantize) -> Quantizer | dict[str, int | Quantizer]:
    """One quantizer for all, or one for each selector that has bits of its own."""

    def quantizer(bits: int | None) -> Quantizer:
        settings: dict[str, Any] = dict(step.settings)
        if bits is not None:
            settings["bits"] = bits
        if step.method == "kmeans":
            settings.setdefault("seed", run.seed)
        return made("method", step.method, QUANTIZERS, settings)

    if isinstance(step.bits, dict):
        return {selector: quantizer(bits) for selector, bits in step.bits.items()}
    return quantizer(step.bits)

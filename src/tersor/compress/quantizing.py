"""The step `quantize` of a recipe: which quantizers, what comes before and after them, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tersor.compress.steps import Quantize
from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.core.tables import made
from tersor.prune import FirstBatches
from tersor.quantize import (
    QUANTIZERS,
    TRAININGS,
    Codebook,
    CodebookTuner,
    QuantizedTraining,
    Quantizer,
    Training,
    codebooks_of,
    gptq_,
    quantize_,
    quantize_activations_,
    quantize_vectors_,
)

if TYPE_CHECKING:
    from tersor.compress.run import Run

VECTORS = ("product", "residual")

TUNED = ("kmeans", *VECTORS)
"""Methods that share values, which epochs train; what others give is trained straight through."""


def quantize(run: Run, number: int, step: Quantize) -> tuple[list[Report], list[str]]:
    """Quantize weights, and what else the step asks for; the names of the weights."""
    chosen: dict[str, Any] = {"select": step.select or None, "ignore": step.ignore or None}
    seed_everything(run.seed, "quantize")  # decides the batches that are looked at
    batches = FirstBatches(run.task.train, step.batches)
    if step.training is not None or (step.epochs and step.method not in TUNED):
        return _while_training(run, number, step, batches, chosen)
    quantizers = _quantizers(run, step)
    books: dict[str, Codebook] | None = None
    if step.epochs and step.method in VECTORS and step.rounding == "nearest":
        books, report = quantize_vectors_(run.model, quantizers, masks=run.masks, **chosen)
    elif step.rounding == "gptq":
        report = gptq_(run.model, quantizers, batches, masks=run.masks, **chosen)
    else:
        report = quantize_(run.model, quantizers, masks=run.masks, **chosen)
    reports, names = [report], [str(row["name"]) for row in report.rows]
    if step.activations is not None:
        reports.append(quantize_activations_(run.model, batches, bits=step.activations, **chosen))
    if step.epochs and names:
        if books is None:
            books = codebooks_of(run.model, select=names)
        reports.append(run.fit(number, step, [CodebookTuner(run.model, books)], held=names))
    return reports, names


def _while_training(
    run: Run, number: int, step: Quantize, batches: FirstBatches, chosen: dict[str, Any]
) -> tuple[list[Report], list[str]]:
    """Train with quantized weights, which they are at every step."""
    if step.epochs == 0:
        raise ConfigError(f"quantize: training {step.training!r} needs epochs, 1 or more")
    if step.rounding == "gptq":
        raise ConfigError("quantize: rounding 'gptq' is for a network that is not trained after it")
    reports: list[Report] = []
    if step.activations is not None:
        reports.append(quantize_activations_(run.model, batches, bits=step.activations, **chosen))
    masks = dict(run.masks or {})
    method = QuantizedTraining(run.model, _ways(run, step), masks=masks, seed=run.seed, **chosen)
    # While a part of the weights is not quantized yet, no epoch can be the best.
    last = step if method.finished else step.model_copy(update={"keep": "last"})
    names = [str(row["name"]) for row in method.report().rows]
    reports.append(run.fit(number, last, [method], held=names))
    method.finish()
    return [*reports, method.report()], names


def _ways(run: Run, step: Quantize) -> Any:
    """What is trained: quantizers, or the training that the step names, for each of its bits."""
    if step.training is None:
        return _quantizers(run, step)

    def way(bits: int | None) -> Training:
        settings = dict(step.settings) | ({} if bits is None else {"bits": bits})
        return made("training", str(step.training), TRAININGS, settings)

    if isinstance(step.bits, dict):
        return {selector: way(bits) for selector, bits in step.bits.items()}
    return way(step.bits)


def _quantizers(run: Run, step: Quantize) -> Quantizer | dict[str, int | Quantizer]:
    """One quantizer for all, or one for each selector that has bits of its own."""

    def quantizer(bits: int | None) -> Quantizer:
        settings: dict[str, Any] = dict(step.settings)
        if bits is not None:
            settings["bits"] = bits
        if step.method in TUNED:
            settings.setdefault("seed", run.seed)
        return made("method", step.method, QUANTIZERS, settings)

    if isinstance(step.bits, dict):
        return {selector: quantizer(bits) for selector, bits in step.bits.items()}
    return quantizer(step.bits)

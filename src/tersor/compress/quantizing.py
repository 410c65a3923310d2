"""The step `quantize` of a recipe: which quantizers, what comes before and after them, training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from tersor.compress.steps import Quantize
from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import seed_everything
from tersor.core.tables import made
from tersor.core.weights import assign, prunable
from tersor.prune import FirstBatches
from tersor.quantize import (
    QUANTIZERS,
    TRAININGS,
    Affine,
    Codebook,
    CodebookTuner,
    GridQuantizer,
    QuantizedTraining,
    Quantizer,
    Training,
    codebooks_of,
    correct_biases_,
    equalize_,
    fold_batch_norms_,
    gptq_,
    mixed_precision,
    quantize_,
    quantize_activations_,
    quantize_vectors_,
)

if TYPE_CHECKING:
    from tersor.compress.run import Run

T = TypeVar("T")

VECTORS = ("product", "residual")

TUNED = ("kmeans", *VECTORS)
"""Methods that share values, which epochs train; what others give is trained straight through."""

Done = tuple[list[Report], list[str]]


def check_quantize(model: nn.Module | None, step: Quantize) -> None:
    """Refuse what cannot work, before anything is trained.

    Args:
        model: as it will be when it is the step's turn; None if that is not known yet.

    Raises:
        ConfigError: settings that do not go together, or that the method or the network refuses.
    """
    _check_together(step)
    for bits in step.widths if step.budget is not None else _bits_of(step):
        if step.training is not None:
            _training(step, bits)
            continue
        quantizer = _quantizer(step, 0, bits)
        stages = getattr(quantizer, "stages", 1)
        if step.epochs and step.method in VECTORS and stages > 1:
            raise ConfigError(
                f"quantize: method {step.method!r}: a codebook of {stages} stages has no values of "
                "its own to train; expected no epochs, or one stage"
            )
        if step.rounding == "gptq" and not isinstance(quantizer, GridQuantizer):
            raise ConfigError(
                f"quantize: rounding 'gptq' rounds entry by entry, method {step.method!r} does "
                "not; expected one with a grid, as affine or kmeans"
            )
    if model is None:
        return
    weights = prunable(model, **_selected(step))
    if isinstance(step.bits, dict):
        assign(model, step.bits, weights, what="bits")
    if step.fold or step.equalize:
        model = copy.deepcopy(model)
        _prepare(model, step)
    layers = [weight.module for weight in prunable(model, **_selected(step))]
    if step.correct_biases and all(getattr(layer, "bias", None) is None for layer in layers):
        raise ConfigError(
            "quantize: correct_biases: no chosen layer has a bias; fold: true gives those one that "
            "have a batch norm behind them"
        )


def quantize(run: Run, number: int, step: Quantize) -> Done:
    """Quantize weights, and what else the step asks for; the names of the weights."""
    seed_everything(run.seed, "quantize")  # decides the batches that are looked at
    batches = FirstBatches(run.task.train, step.batches)
    before = _prepare(run.model, step)
    chosen, reports = _chosen(run, step, batches)
    if step.training is not None or (step.epochs and step.method not in TUNED):
        done, names = _while_training(run, number, step, batches, chosen)
    else:
        done, names = _at_once(run, number, step, batches, chosen)
    return [*before, *reports, *done], names


def _check_together(step: Quantize) -> None:
    wrong = {
        f"training {step.training!r} needs epochs, 1 or more": (
            step.training is not None and step.epochs == 0
        ),
        "rounding 'gptq' is for a network that is not trained after it": (
            step.rounding == "gptq" and (step.training is not None or step.epochs > 0)
        ),
        "correct_biases is for a network that is not trained after it; training does it, too": (
            step.correct_biases and step.epochs > 0
        ),
        "budget and bits given; expected one of them": (
            step.budget is not None and step.bits is not None
        ),
        f"budget: {step.budget} bits a weight is below the smallest of widths {step.widths}": (
            step.budget is not None and step.budget < min(step.widths)
        ),
    }
    for message, is_so in wrong.items():
        if is_so:
            raise ConfigError(f"quantize: {message}")


def _prepare(model: nn.Module, step: Quantize) -> list[Report]:
    """What is done with the network before its weights are quantized."""
    reports = [fold_batch_norms_(model)] if step.fold else []
    return [*reports, *([equalize_(model)] if step.equalize else [])]


def _chosen(
    run: Run, step: Quantize, batches: FirstBatches
) -> tuple[Quantizer | dict[str, Quantizer], list[Report]]:
    """The quantizers, and the report on how the bits were given out if there is a budget."""
    if step.budget is None:
        if step.training is not None:
            return {}, []  # it says itself what the values are
        return _for_each(step.bits, lambda bits: _quantizer(step, run.seed, bits)), []
    chosen, report = mixed_precision(
        run.model,
        [_candidate(step, run.seed, bits) for bits in step.widths],
        step.budget,
        sensitivity=step.sensitivity,
        data=batches,
        loss=run.task.loss,
        seed=run.seed,
        masks=run.masks,
        **_selected(step),
    )
    return chosen, [report]


def _at_once(
    run: Run,
    number: int,
    step: Quantize,
    batches: FirstBatches,
    chosen: Quantizer | dict[str, Quantizer],
) -> Done:
    """Put the weights on their values, and tune those of codebooks if there are epochs."""
    dense = copy.deepcopy(run.model) if step.correct_biases else None
    options: dict[str, Any] = {"masks": run.masks, **_selected(step)}
    books: dict[str, Codebook] | None = None
    if step.epochs and step.method in VECTORS:
        books, report = quantize_vectors_(run.model, chosen, **options)
    elif step.rounding == "gptq":
        report = gptq_(run.model, chosen, batches, **options)
    else:
        report = quantize_(run.model, chosen, **options)
    reports, names = [report], [str(row["name"]) for row in report.rows]
    reports += _with_activations(run, step, batches)
    if dense is not None:
        held = list(batches)  # of a loader that shuffles, each pass would have others
        reports.append(correct_biases_(run.model, dense, held, **_selected(step)))
    if step.epochs and names:
        if books is None:
            books = codebooks_of(run.model, select=names)
        reports.append(run.fit(number, step, [CodebookTuner(run.model, books)], held=names))
    return reports, names


def _while_training(
    run: Run,
    number: int,
    step: Quantize,
    batches: FirstBatches,
    chosen: Quantizer | dict[str, Quantizer],
) -> Done:
    """Train with quantized weights, which they are at every step."""
    reports = _with_activations(run, step, batches)
    method = QuantizedTraining(
        run.model,
        _ways(step, chosen),
        masks=dict(run.masks or {}),
        seed=run.seed,
        **_selected(step),
    )
    # While a part of the weights is not quantized yet, no epoch can be the best.
    last = step if method.finished else step.model_copy(update={"keep": "last"})
    names = [str(row["name"]) for row in method.report().rows]
    reports.append(run.fit(number, last, [method], held=names))
    method.finish()
    return [*reports, method.report()], names


def _with_activations(run: Run, step: Quantize, batches: FirstBatches) -> list[Report]:
    if step.activations is None:
        return []
    chosen = _selected(step)
    return [quantize_activations_(run.model, batches, bits=step.activations, **chosen)]


def _ways(step: Quantize, chosen: Quantizer | dict[str, Quantizer]) -> Any:
    """What is trained: the quantizers, or the training that the step names, of the same bits."""
    if step.training is None:
        return chosen
    if step.budget is None:
        return _for_each(step.bits, lambda bits: _training(step, bits))
    assert isinstance(chosen, dict)  # a budget chooses one for each weight
    return {name: _training(step, int(quantizer.bits)) for name, quantizer in chosen.items()}


def _bits_of(step: Quantize) -> list[int | None]:
    return list(step.bits.values()) if isinstance(step.bits, dict) else [step.bits]


def _for_each(
    bits: int | dict[str, int] | None, make: Callable[[int | None], T]
) -> T | dict[str, T]:
    """One for all, or one for each selector that has bits of its own."""
    if isinstance(bits, dict):
        return {selector: make(value) for selector, value in bits.items()}
    return make(bits)


def _quantizer(step: Quantize, seed: int, bits: int | None) -> Quantizer:
    settings = _with_bits(step.settings, bits)
    if step.method in TUNED:
        settings.setdefault("seed", seed)
    return made("method", step.method, QUANTIZERS, settings)


def _candidate(step: Quantize, seed: int, bits: int) -> Quantizer:
    """What tells the costs of a width; for a training, whose values are still to be learned, even
    grids do.
    """
    if step.training is not None:
        return Affine(bits, symmetric=bits > 1)
    return _quantizer(step, seed, bits)


def _training(step: Quantize, bits: int | None) -> Training:
    return made("training", str(step.training), TRAININGS, _with_bits(step.settings, bits))


def _with_bits(settings: Mapping[str, Any], bits: int | None) -> dict[str, Any]:
    return dict(settings) | ({} if bits is None else {"bits": bits})


def _selected(step: Quantize) -> dict[str, Any]:
    return {"select": step.select or None, "ignore": step.ignore or None}

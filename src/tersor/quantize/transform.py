"""Quantize the weights of a network at once, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.quantize.centroids import KMeans
from tersor.quantize.codebook import distinct
from tersor.quantize.orientation import as_stored, outputs_first
from tersor.quantize.quantizer import Quantizer, bits_of, label

MOST_COUNTED = 1 << 16
"""Distinct values of a tensor, up to which the report counts them."""


def quantize_(
    model: nn.Module,
    quantizer: int | Quantizer | Mapping[str, int | Quantizer],
    *,
    masks: Mapping[str, Tensor] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Put the kept weights of each tensor on the nearest values of a grid, in place.

    What is pruned stays zero. What a grid has at zero may be zero among the kept weights, too,
    apart from k-means, which has no zero.

    Args:
        model: changed in place. Biases and normalisation parameters are left alone.
        quantizer: one of `QUANTIZERS`, or of your own; a number stands for `KMeans` with so many
            bits. Or one for each of some selectors ({"conv1": 8, "Linear": Affine(4)}), and then
            what none of them names is left alone.
        masks: which weights are kept, by name; a tensor without a mask keeps its non-zero ones.
        importance: of the errors, by name: not negative, shaped as the weight (for example squared
            gradients); a quantizer that does not use it is not changed by it.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        A report: for each tensor bits, distinct values, errors.

    Raises:
        ConfigError: a setting is out of range, a weight is not finite, a mask or an importance
            does not fit; then nothing is changed.

    >>> model = nn.Linear(64, 64)
    >>> report = quantize_(model, 2)
    >>> len(model.weight.unique()), report.rows[0]["values"]
    (4, 4)
    """
    return quantize_each(
        model,
        quantizer,
        quantized,
        masks=masks,
        importance=importance,
        select=select,
        ignore=ignore,
    )


def quantize_each(
    model: nn.Module,
    quantizer: int | Quantizer | Mapping[str, int | Quantizer],
    values: Callable[[Quantizer, Weight, Tensor, Tensor | None], Tensor],
    *,
    masks: Mapping[str, Tensor] | None,
    importance: Mapping[str, Tensor] | None,
    select: Selectors,
    ignore: Selectors,
) -> Report:
    """Give each weight its values, as `quantized` does; all else as `quantize_`."""
    weights, skipped = survey(model, select=select, ignore=ignore)
    chosen = chosen_quantizers(model, quantizer, weights)
    masks, importance = masks or {}, importance or {}
    check_shaped(model, masks, "mask")
    check_shaped(model, importance, "importance")
    results: list[tuple[Weight, Tensor]] = []
    rows: list[dict[str, Value]] = []
    for weight in weights:
        if weight.name not in chosen:
            skipped[weight.name] = "no quantizer given"
            continue
        before = weight.parameter.detach()
        kept = kept_entries(weight, masks)
        if not bool(kept.any()):
            skipped[weight.name] = "all of its weights are zero"
            continue
        try:
            after = values(chosen[weight.name], weight, kept, importance.get(weight.name))
        except ConfigError as error:
            raise ConfigError(f"quantize: {weight.name!r}: {error}") from error
        results.append((weight, after))
        rows.append({"name": weight.name, "quantizer": label(chosen[weight.name])})
        rows[-1] |= {
            "kept": int(kept.sum()),
            "bits": bits_of(chosen[weight.name], outputs_first(weight, before).shape),
        }
        rows[-1] |= errors(before, after, kept)
    for weight, after in results:  # all of them could be quantized: now, and not before, any is
        with torch.no_grad():
            weight.parameter.copy_(after)
    summary: dict[str, Value] = {"tensors": len(rows), "tensors skipped": len(skipped)}
    deaf = sorted(
        {label(q) for n, q in chosen.items() if n in importance and not q.uses_importance}
    )
    notes = [f"{', '.join(deaf)}: importance has no say"] if deaf else []
    return Report("Quantization", summary, rows, skipped, notes)


def quantized(
    quantizer: Quantizer, weight: Weight, kept: Tensor, importance: Tensor | None = None
) -> Tensor:
    """What a quantizer makes of one weight, in the weight's own shape.

    Raises:
        ConfigError: a kept entry is not finite, or the quantizer cannot take this weight.
    """
    return as_stored(weight, quantizer(*seen(weight, kept, importance)))


def seen(
    weight: Weight, kept: Tensor, importance: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a quantizer is called with: the weight, what is kept of it (None: all), importance.

    Raises:
        ConfigError: an entry is not finite.
    """
    before = weight.parameter.detach()
    if not bool(torch.isfinite(before).all()):
        raise ConfigError("a weight is NaN or infinite")
    whole = bool(kept.all())
    if importance is not None:
        importance = outputs_first(weight, importance.to(before.device))
    return (
        outputs_first(weight, before),
        None if whole else outputs_first(weight, kept),
        importance,
    )


def chosen_quantizers(
    model: nn.Module,
    quantizer: int | Quantizer | Mapping[str, int | Quantizer],
    weights: list[Weight],
) -> dict[str, Quantizer]:
    """The quantizer of each weight that has one.

    Raises:
        ConfigError: it is neither a number of bits nor a quantizer, or as `assign`.
    """
    if isinstance(quantizer, Mapping):
        found = {selector: _as_quantizer(value) for selector, value in quantizer.items()}
        return assign(model, found, weights, what="quantizer")
    return dict.fromkeys((weight.name for weight in weights), _as_quantizer(quantizer))


def _as_quantizer(value: object) -> Quantizer:
    if isinstance(value, Quantizer) and not isinstance(value, type):
        return value
    if isinstance(value, int | float):
        return KMeans(value)  # type: ignore[arg-type]  # it refuses what is no whole number
    raise ConfigError(
        f"quantizer: {value!r}; expected a quantizer as KMeans(4), or a number of bits"
    )


def check_shaped(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Check that masks, or importances, are of weights of the model and shaped as they are.

    Raises:
        ConfigError: one does not fit.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        if name not in parameters:
            raise ConfigError(f"{what} {name!r}: {type(model).__name__} has no such weight")
        shape = tuple(parameters[name].shape)
        if tuple(tensor.shape) != shape:
            raise ConfigError(
                f"{what} {name!r}: shape {tuple(tensor.shape)}, but the weight has {shape}"
            )
        if what == "mask" and tensor.dtype != torch.bool:
            raise ConfigError(f"mask {name!r}: dtype {tensor.dtype}, expected torch.bool")
        if what == "importance" and not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
            raise ConfigError(
                f"importance {name!r}: a value is negative, NaN or infinite; expected 0 or more"
            )


def kept_entries(weight: Weight, masks: Mapping[str, Tensor]) -> Tensor:
    """The mask of a weight; without one, what is not zero."""
    if weight.name not in masks:
        return weight.parameter.detach() != 0
    return masks[weight.name].to(weight.parameter.device)


def errors(before: Tensor, after: Tensor, kept: Tensor) -> dict[str, Value]:
    """How far the kept entries moved, as columns of a report.

    SQNR = 10 log10(sum(w**2) / sum((w - q)**2)) in dB; none where nothing moved.
    """
    if not bool(kept.all()):
        before, after = before[kept], after[kept]
    noise = float((after.float() - before.float()).square().sum(dtype=torch.float64))
    signal = float(before.float().square().sum(dtype=torch.float64))
    values = distinct(after, MOST_COUNTED)
    return {
        "values": None if values is None else len(values),
        "largest value": float(after.abs().max()),
        "rms error": math.sqrt(noise / before.numel()),
        "SQNR dB": 10 * math.log10(signal / noise) if noise > 0 < signal else None,
    }

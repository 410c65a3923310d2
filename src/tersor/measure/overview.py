"""All measurements of a model in one report."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.weights import prunable
from tersor.measure.counting import macs
from tersor.measure.error import evaluate
from tersor.measure.sizes import file_bytes, size
from tersor.measure.timing import latency
from tersor.tasks import Batches, top1_mistakes


def measure(
    model: nn.Module,
    *,
    example_input: Tensor | None = None,
    loader: Batches | None = None,
    path: str | os.PathLike[str] | None = None,
    mistakes: Callable[[Tensor, Tensor], Tensor] = top1_mistakes,
    runs: int = 100,
) -> Report:
    """Measure a model; each argument that is given adds what can be told with it.

    The summary's `density` is that of the prunable weights, without biases and normalisation.

    Args:
        model: what is measured; afterwards it is as it was.
        example_input: a batch, (N, *): adds multiply-accumulates of one input, and the latency of
            the batch.
        loader: batches of (inputs, targets): adds the error with its 95 % interval.
        path: the model's file: adds its bytes, bits per weight, and the compression ratio to
            `dense_bytes`, the plain tensors without any header.
        mistakes: what counts as one, see `evaluate`.
        runs: forward passes that are timed.

    Returns:
        A report with one row for each tensor of the state dict.

    Raises:
        ConfigError, DataError: as `evaluate`, `file_bytes`, `latency`, `macs` and `size`.

    >>> report = measure(nn.Linear(8, 2))
    >>> report.summary["parameters"], report.summary["dense_bytes"]
    (18, 72)
    """
    sizes = size(model)
    kinds = _kinds(model)
    skipped = dict(sizes.skipped)
    rows: list[dict[str, Value]] = [
        {
            "name": tensor.name,
            "kind": kinds.get(tensor.name),
            "shape": "x".join(map(str, tensor.shape)),
            "parameters": tensor.values,
            "density": tensor.density,
            "distinct": tensor.distinct,
        }
        for tensor in sizes.tensors
        if tensor.tied_to is None
    ]
    weights = [t for t in sizes.tensors if t.name in kinds]
    kept, prunable_values = sum(t.nonzeros for t in weights), sum(t.values for t in weights)
    summary: dict[str, Value] = {
        "parameters": sizes.parameters,
        "density": kept / prunable_values if prunable_values else None,
        "dense_bytes": sizes.dense_bytes,
    }
    if path is not None:
        stored = file_bytes(path)
        summary["file_bytes"] = stored
        summary["compression_ratio"] = sizes.dense_bytes / stored if stored else None
        summary["bits_per_weight"] = 8 * stored / sizes.parameters if sizes.parameters else None
    if example_input is not None:
        counted = macs(model, example_input)
        summary |= {"macs": counted.total, "effective_macs": counted.effective}
        if counted.other:
            summary["macs_without_a_weight"] = counted.other
        for row in rows:
            row["macs"] = counted.by_weight.get(str(row["name"]))
            row["effective_macs"] = counted.effective_by_weight.get(str(row["name"]))
        skipped |= {name: f"macs: {reason}" for name, reason in counted.not_counted.items()}
        timed = latency(model, example_input, runs=runs)
        summary |= {
            "latency_p50_ms": timed.p50_ms,
            "latency_p90_ms": timed.p90_ms,
            "latency_p99_ms": timed.p99_ms,
            "latency_runs": timed.runs,
            "latency_batch": timed.batch,
            "latency_threads": timed.threads,
        }
    if loader is not None:
        error = evaluate(model, loader, mistakes=mistakes)
        low, high = error.interval
        summary |= {
            "error_percent": error.percent,
            "error_low_percent": low,
            "error_high_percent": high,
            "mistakes": error.mistakes,
            "samples": error.samples,
        }
    skipped |= {t.name: f"tied to {t.tied_to}" for t in sizes.tensors if t.tied_to is not None}
    return Report(type(model).__name__, summary, rows, skipped)


def _kinds(model: nn.Module) -> dict[str, str]:
    """Name of a prunable weight to its kind."""
    try:
        return {weight.name: weight.kind for weight in prunable(model)}
    except ConfigError:  # nothing to prune is nothing wrong here
        return {}

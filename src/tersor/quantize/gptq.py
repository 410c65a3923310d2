"""Layer-wise reconstruction: weights on a grid such that what a layer gives changes least.

After each column of a weight is rounded, the columns to come make up for its error, as far as the
second moments of the layer's inputs say they can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.feeding import feed
from tersor.core.layer_inputs import watching_inputs
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, Weight, survey
from tersor.quantize.orientation import as_stored, outputs_first
from tersor.quantize.quantizer import Grid, GridQuantizer, Quantizer, label
from tersor.quantize.transform import check_shaped, chosen_quantizers, kept_entries

INPUT_LIMIT = 8192
"""Inputs of a unit: the moments of a layer have as many rows and columns, 512 MiB."""

ORDERS = ("act", None)

_TINY = 1e-150  # its inverse, and the squares of that, are finite


def gptq_(
    model: nn.Module,
    quantizer: int | Quantizer | Mapping[str, int | Quantizer],
    data: Iterable[Any],
    *,
    batches: int | None = None,
    damping: float = 0.01,
    block: int = 128,
    order: str | None = "act",
    masks: Mapping[str, Tensor] | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Quantize linear and convolutional layers one after the other, each with its output in view.

    Layer by layer in the order of their calls; a layer sees what comes out of those that are
    quantized already, rounded inputs (`quantize_activations_`) included. The grid is the one that
    `quantize_` would use. No unit's output error on the data is larger than that of rounding to the
    nearest; where it would be, the nearest values are taken. What is pruned stays zero.

    Args:
        model: changed in place, in eval mode while it is looked at.
        quantizer: as in `quantize_`, but each must work entry by entry (`GridQuantizer`).
        data: batches as `quantize_activations_` takes them; gone through once for each layer.
        batches: look at the first so many; None: at all.
        damping: what is added to the diagonal of H, as a share of its mean, 0 or more.
        block: columns after which the others are brought up to date; it changes the speed alone.
        order: "act": columns with large inputs first; None: as they stand.
        masks: which weights are kept, by name; a tensor without a mask keeps its non-zero ones.
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        A report: for each tensor the relative output error |x (W - Q)| / |x W| on the data, beside
        that of the nearest values.

    Raises:
        ConfigError: a setting is out of range, a quantizer has no grid, there are no batches or
            they can be gone through only once, no chosen layer has inputs; nothing is changed then.

    Source: Frantar, Ashkboos, Hoefler and Alistarh 2022, arXiv 2210.17323, algorithm 1. A grid is
    found once, from the weights as they were, also for groups; of each unit the better of this and
    the nearest rounding is kept; zeros are kept as Frantar and Alistarh 2023, arXiv 2301.00774, do.

    >>> from tersor.quantize import Affine
    >>> _ = torch.manual_seed(0)
    >>> layer = nn.Linear(32, 8)
    >>> inputs = torch.randn(64, 4) @ torch.randn(4, 32)  # correlated
    >>> [row] = gptq_(layer, Affine(3), [inputs]).rows
    >>> row["output error"] < 0.5 * row["of the nearest"]
    True
    """
    _check(damping, block, order, data)
    weights, skipped = survey(model, select=select, ignore=ignore)
    chosen = chosen_quantizers(model, quantizer, weights)
    for one in chosen.values():
        if not isinstance(one, GridQuantizer):
            raise ConfigError(
                f"gptq: {label(one)} does not work entry by entry; "
                "expected a quantizer with a grid, as Affine or KMeans"
            )
    masks = masks or {}
    check_shaped(model, masks, "mask")
    skipped |= {w.name: "no quantizer given" for w in weights if w.name not in chosen}
    todo, refused = _in_order_of_calls(model, [w for w in weights if w.name in chosen], data)
    skipped |= refused
    if not todo:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:3])
        raise ConfigError(f"gptq: no weight to work on ({reasons})")
    rows: list[dict[str, Value]] = []
    with _all_or_nothing(todo):
        for weight in todo:
            kept = kept_entries(weight, masks)
            moments = input_moments(model, weight, data, batches)
            rows.append({"name": weight.name, "quantizer": label(chosen[weight.name])})
            try:
                rows[-1] |= _quantize_one(
                    weight, chosen[weight.name], kept, moments, damping, block, order
                )
            except ConfigError as error:
                raise ConfigError(f"gptq: {weight.name!r}: {error}") from error
    summary: dict[str, Value] = {"damping": damping, "order": order or "as they stand"}
    summary |= {"tensors": len(rows), "tensors skipped": len(skipped)}
    return Report("Layer-wise reconstruction", summary, rows, skipped)


def input_moments(
    model: nn.Module, weight: Weight, data: Iterable[Any], batches: int | None = None
) -> Tensor:
    """H = mean of x x^T over the rows x of a layer's inputs: (groups, n, n) float64."""
    total: list[Tensor] = []
    count = 0

    def take(_: Weight, rows: Tensor) -> None:
        nonlocal count
        count += rows.shape[1]
        rows = rows.double()  # the small eigenvalues are those that the errors go along
        found = rows.mT @ rows
        if total:
            total[0] += found
        else:
            total.append(found)

    with watching_inputs(model, [weight], take):
        feed(model, data, batches=batches)
    return total[0] / max(count, 1)


def reconstruct(
    units: Tensor,
    moments: Tensor,
    round_column: Callable[[Tensor, int], Tensor],
    *,
    damping: float = 0.01,
    block: int = 128,
    order: str | None = None,
) -> Tensor:
    """Rounded units, column after column, each error passed on to the columns to come.

    w_k -= (w_j - q_j) [H^-1]_jk / [H^-1]_jj for k after j, with H without the columns before j:
    the rows of the upper Cholesky factor of H^-1.

    Args:
        units: (out, n) weights.
        moments: (groups, n, n) second moments of the inputs; the units of a group stand together.
        round_column: a column of weights, (out,), and its number to its values on the grid.

    Shapes: -> (out, n), of the dtype of `units`.
    """
    groups, size, _ = moments.shape
    damped = moments.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal += (damping * diagonal.mean(1, keepdim=True)).clamp(min=_TINY)
    columns = torch.arange(size, device=units.device)
    if order == "act":
        columns = diagonal.mean(0).argsort(descending=True, stable=True)
    damped = damped[:, columns][:, :, columns]
    inverse = torch.cholesky_inverse(_factor(damped))
    upper = _factor(inverse).mT  # (groups, n, n)
    left = units.double()[:, columns].view(groups, -1, size)
    result = torch.empty_like(units)
    numbers = columns.tolist()
    for start in range(0, size, block):
        stop = min(start + block, size)
        part, corner = left[..., start:stop], upper[:, start:stop, start:stop]
        passed = torch.zeros_like(part)
        for i in range(stop - start):
            column = part[..., i]  # (groups, out / groups)
            rounded = round_column(column.reshape(-1).to(units.dtype), numbers[start + i])
            result[:, numbers[start + i]] = rounded
            error = (column - rounded.double().view_as(column)) / corner[:, i, i, None]
            part[..., i:] -= error[..., None] * corner[:, None, i, i:]
            passed[..., i] = error
        left[..., stop:] -= passed @ upper[:, start:stop, stop:]
    return result


def output_errors(change: Tensor, moments: Tensor) -> Tensor:
    """d H d^T for each unit: its mean squared change of output. (out, n) -> (out,), float64."""
    rows = change.double().view(len(moments), -1, change.shape[1])
    return ((rows @ moments) * rows).sum(2).flatten().clamp(min=0)


def _quantize_one(
    weight: Weight,
    quantizer: Quantizer,
    kept: Tensor,
    moments: Tensor,
    damping: float,
    block: int,
    order: str | None,
) -> dict[str, Value]:
    assert isinstance(quantizer, GridQuantizer)
    before = outputs_first(weight, weight.parameter.detach())
    mask = outputs_first(weight, kept)
    if not bool(torch.isfinite(before).all()):
        raise ConfigError("a weight is NaN or infinite")
    if not bool(torch.isfinite(moments).all()):
        raise ConfigError("an input of its layer is NaN or infinite")
    units = before.reshape(len(before), -1)
    flat_mask = mask.reshape(units.shape)
    matter = moments.diagonal(dim1=1, dim2=2)[:, None].expand(
        -1, len(units) // len(moments), -1
    )  # (groups, out / groups, n)
    grid = quantizer.fit(
        before,
        None if bool(mask.all()) else mask,
        matter.reshape(before.shape).to(before.dtype) if bool((matter > 0).any()) else None,
    )

    def round_column(column: Tensor, number: int) -> Tensor:
        values = _round_one(grid, column, number, before.shape)
        return torch.where(flat_mask[:, number], values, 0.0)

    nearest = torch.where(mask, grid.round(before), 0.0).reshape(units.shape)
    found = reconstruct(units, moments, round_column, damping=damping, block=block, order=order)
    lost, lost_nearest = (output_errors(q - units, moments) for q in (found, nearest))
    whole = output_errors(units, moments).sum().clamp(min=_TINY)
    better = lost <= lost_nearest
    found = torch.where(better[:, None], found, nearest)
    with torch.no_grad():
        weight.parameter.copy_(as_stored(weight, found.view(before.shape)))
    return {
        "kept": int(kept.sum()),
        "bits": quantizer.bits,
        "output error": float((torch.minimum(lost, lost_nearest).sum() / whole).sqrt()),
        "of the nearest": float((lost_nearest.sum() / whole).sqrt()),
        "units rounded to the nearest": int((~better).sum()),
    }


def _round_one(grid: Grid, column: Tensor, number: int, shape: torch.Size) -> Tensor:
    """One column of a weight on its grid; a grid may have a quick way, `columns(start, stop)`."""
    part = getattr(grid, "columns", None)
    if part is not None:
        rounded: Tensor = part(number, number + 1).round(column[:, None])
        return rounded[:, 0]
    whole = column.new_zeros(len(column), shape[1:].numel())
    whole[:, number] = column
    return grid.round(whole.view(shape)).reshape(whole.shape)[:, number]


def _in_order_of_calls(
    model: nn.Module, weights: list[Weight], data: Iterable[Any]
) -> tuple[list[Weight], dict[str, str]]:
    found: dict[str, Weight] = {}

    def take(weight: Weight, _: Tensor) -> None:
        found.setdefault(weight.name, weight)

    with watching_inputs(model, weights, take) as refused:
        feed(model, data, batches=1)
    for name, weight in list(found.items()):
        size = weight.shape.numel() // max(len(outputs_first(weight, weight.parameter)), 1)
        if size > INPUT_LIMIT:
            refused[name] = f"a unit has {size:,} inputs, at most {INPUT_LIMIT:,} can be inverted"
            del found[name]
    return list(found.values()), refused


@contextlib.contextmanager
def _all_or_nothing(weights: list[Weight]) -> Iterator[None]:
    before = [weight.parameter.detach().clone() for weight in weights]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for weight, values in zip(weights, before, strict=True):
                weight.parameter.copy_(values)
        raise


def _factor(matrix: Tensor) -> Tensor:
    found, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise ConfigError("the moments of its inputs cannot be inverted; raise the damping")
    lower: Tensor = found
    return lower


def _check(damping: float, block: int, order: str | None, data: object) -> None:
    if not 0 <= damping < float("inf"):
        raise ConfigError(f"damping: {damping}; expected a number of 0 or more")
    if not isinstance(block, int) or block < 1:
        raise ConfigError(f"block: {block}; expected 1 or more columns")
    if order not in ORDERS:
        raise ConfigError(f"order: {order!r}; expected 'act' or None")
    if isinstance(data, Iterator):
        raise ConfigError(
            f"data: a {type(data).__name__} is used up after one layer; "
            "expected a loader, or a list of batches"
        )

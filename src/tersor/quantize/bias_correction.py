"""Bias correction: what quantized weights add to the mean of an output is taken from its bias."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.feeding import feed
from tersor.core.layer_inputs import plain_attention
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, survey

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def correct_biases_(
    model: nn.Module,
    reference: nn.Module,
    data: Iterable[Any],
    *,
    batches: int | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Give every output of each layer the mean that it has in the reference, by its bias.

    bias_i -= E[output_i of the model] - E[output_i of the reference], over samples and places,
    layer after layer in the order of their calls, so that a layer is corrected for what comes out
    of those that are corrected already.

    Args:
        model: quantized; its biases are changed in place.
        reference: the same network before, with the same names. If batch norms are folded, they
            must be in both.
        data: batches as `quantize_activations_` takes them; gone through once for each layer.
        batches: look at the first so many; None: at all.
        select, ignore: which layers, by the names of their weights as in `tersor.core.prunable`.

    Returns:
        A report: of each layer the largest shift that was corrected and what is left of it.

    Raises:
        ConfigError: no chosen layer has a bias, a layer of the reference is another one, there are
            no batches; nothing is changed then.

    Source: Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721, appendix D, with
    means over data.

    >>> import copy
    >>> from tersor.quantize import quantize_
    >>> layer, inputs = nn.Linear(8, 4), torch.rand(100, 8)
    >>> dense = copy.deepcopy(layer)
    >>> _ = quantize_(layer, 1)
    >>> _ = correct_biases_(layer, dense, [inputs])
    >>> torch.allclose(layer(inputs).mean(0), dense(inputs).mean(0), atol=1e-6)
    True
    """
    if isinstance(data, Iterator):
        raise ConfigError(
            f"data: a {type(data).__name__} is used up after one layer; "
            "expected a loader, or a list of batches"
        )
    layers, skipped = _layers_with_biases(model, reference, select, ignore)
    wanted = mean_outputs(reference, list(layers), data, batches)
    for name in set(layers) - set(wanted):
        skipped[name] = "it is not called as a module on this data"
    if not wanted:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:3])
        raise ConfigError(f"correct_biases_: no layer to work on ({reasons})")
    rows: list[dict[str, Value]] = []
    with _all_or_nothing([_bias(layers[name]) for name in wanted]):
        for name in wanted:  # in the order of their calls
            shift = _shift(model, name, data, batches, wanted[name])
            with torch.no_grad():
                _bias(layers[name]).sub_(shift.to(_bias(layers[name])))
            rows.append({"name": name, "largest shift": float(shift.abs().max())})
            left = _shift(model, name, data, batches, wanted[name])
            rows[-1]["left"] = float(left.abs().max())
    return Report("Bias correction", {"layers": len(rows)}, rows, skipped)


def mean_outputs(
    model: nn.Module, names: list[str], data: Iterable[Any], batches: int | None = None
) -> dict[str, Tensor]:
    """The mean of each output of some layers, (out,) float64, in the order of their calls."""
    modules = dict(model.named_modules())
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, _: Any, outputs: Tensor) -> None:
            last = outputs.dim() - 1
            axis = last if isinstance(layer, nn.Linear) else last - len(layer.kernel_size)  # type: ignore[arg-type]  # of convolutions
            flat = outputs.detach().movedim(axis, -1).flatten(0, -2) if last else outputs[None]
            found = flat.sum(0, dtype=torch.float64)
            sums[name] = sums[name] + found if name in sums else found
            counts[name] = counts.get(name, 0) + len(flat)

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_attention())
        for name in names:
            stack.callback(modules[name].register_forward_hook(hook_of(name)).remove)
        feed(model, data, batches=batches)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def _shift(
    model: nn.Module, name: str, data: Iterable[Any], batches: int | None, wanted: Tensor
) -> Tensor:
    found = mean_outputs(model, [name], data, batches)
    if name not in found:
        raise ConfigError(f"correct_biases_: {name!r} is called in the reference alone")
    return found[name] - wanted


def _layers_with_biases(
    model: nn.Module, reference: nn.Module, select: Selectors, ignore: Selectors
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    weights, skipped = survey(model, select=select, ignore=ignore)
    skipped = {name: reason for name, reason in skipped.items() if reason != "a bias"}
    names = {id(module): name for name, module in model.named_modules()}
    others = dict(reference.named_modules())
    found: dict[str, nn.Module] = {}
    for weight in weights:
        layer, name = weight.module, names[id(weight.module)]
        if not isinstance(layer, _LAYERS):
            skipped[weight.name] = "biases of linear and convolutional layers are corrected"
            continue
        if layer.bias is None:
            skipped[weight.name] = "its layer has no bias; fold_batch_norms_ may give it one"
            continue
        other = others.get(name)
        if type(other) is not type(layer) or _shape(other) != _shape(layer):
            raise ConfigError(f"correct_biases_: the reference has no such layer {name!r}")
        if getattr(other, "bias", None) is None:
            raise ConfigError(
                f"correct_biases_: {name!r} has a bias, but not in the reference. "
                "Fold its batch norms, too"
            )
        found[name] = layer
    return found, skipped


def _shape(layer: nn.Module | None) -> torch.Size:
    weight = getattr(layer, "weight", None)
    return weight.shape if isinstance(weight, Tensor) else torch.Size()


def _bias(layer: nn.Module) -> Tensor:
    assert isinstance(layer.bias, Tensor)
    return layer.bias


@contextlib.contextmanager
def _all_or_nothing(biases: list[Tensor]) -> Iterator[None]:
    before = [bias.detach().clone() for bias in biases]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for bias, values in zip(biases, before, strict=True):
                bias.copy_(values)
        raise

"""Quantize what comes into layers: calibrate on batches, then round at each call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.feeding import feed
from tersor.core.layer_inputs import plain_attention
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.units import users
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.quantize.activation_ranges import (
    ACTIVATION_RANGES,
    WITHOUT_HISTOGRAM,
    ActivationRange,
)
from tersor.quantize.clipping import Pact
from tersor.quantize.fake_quantize import (
    CHILD,
    FakeQuantize,
    check_bits,
    put_before,
    take_away,
)
from tersor.quantize.levels import Levels
from tersor.quantize.observers import Observer

METHODS = ("fixed", "pact")

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def quantize_activations_(
    model: nn.Module,
    data: Iterable[Any],
    *,
    bits: int | Mapping[str, int] = 8,
    symmetric: bool = False,
    range: str | ActivationRange | tuple[float, float] = "percentile",
    method: str = "fixed",
    batches: int | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """From now on each chosen layer sees its input rounded to a grid of its own.

    The grid is found on the batches: one pass in eval mode. The quantizer is a child of the layer,
    `input_quantizer`: `fc1.input_quantizer.scale` and `.zero_point` are in the `state_dict`, and no
    other name changes. Training goes through it, straight through. Weights are `quantize_`'s.

    Args:
        model: changed in place: linear and convolutional layers that are called as modules.
        data: batches of inputs, (inputs, targets), or mappings of arguments.
        bits: of a code, 1 to 16; or a number for each of some selectors, and then what none of
            them names is left alone.
        symmetric: zero point 0; else the grid is affine, which suits what comes out of a ReLU.
        range: a name of `ACTIVATION_RANGES`, a function, or two numbers (0.0, 1.0).
        method: "fixed", or "pact": the upper end is a parameter that your optimizer trains
            (`Pact`), and where values of both signs came in, the lower one is its negative.
        batches: look at the first so many; None: at all.
        select, ignore: which layers, by the names of their weights as in `tersor.core.prunable`.

    Raises:
        ConfigError: a setting is out of range, there are no batches, no chosen layer is called, a
            layer has a quantizer already; then nothing is changed.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3; the ranges name theirs.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> report = quantize_activations_(model, [torch.rand(16, 4)], bits={"0": 4}, range=(0.0, 1.0))
    >>> len(report.rows), len(model[0].input_quantizer(torch.linspace(-9, 9, 999)).unique())
    (1, 16)
    """
    if method not in METHODS:
        raise ConfigError(f"method: {method!r}; expected one of {', '.join(METHODS)}")
    rule = _as_rule(range)
    layers, skipped = _chosen_layers(model, select, ignore, bits, symmetric)
    counting = rule not in WITHOUT_HISTOGRAM and not isinstance(rule, tuple)
    seen = {name: Observer(counting=counting) for name in layers}
    passes = _observe(model, data, {name: layers[name][0] for name in layers}, seen, batches)
    quantizers: dict[str, nn.Module] = {}
    rows: list[dict[str, Value]] = []
    for name, (_, width) in layers.items():
        if seen[name].batches == 0:
            skipped[name] = "it is not called as a module on this data"
            continue
        low, high = rule if isinstance(rule, tuple) else rule(seen[name], Levels(width, symmetric))
        quantizers[name] = _quantizer(method, width, symmetric, low, high)
        rows.append({"name": name, "bits": width, "least seen": seen[name].low})
        rows[-1] |= {"greatest seen": seen[name].high, "low": low, "high": high}
    if not quantizers:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:3])
        raise ConfigError(f"quantize_activations_: no layer to work on ({reasons})")
    for name, quantizer in quantizers.items():
        layer = layers[name][0]
        put_before(layer, quantizer.to(next(layer.parameters()).device))
    label = range if isinstance(range, str | tuple) else getattr(range, "__name__", "a function")
    summary: dict[str, Value] = {"method": method, "range": str(label)}
    summary |= {"symmetric": symmetric, "batches": passes, "layers": len(rows)}
    return Report("Quantization of activations", summary, rows, skipped)


def remove_activation_quantizers_(model: nn.Module) -> int:
    """Take all quantizers of inputs away; how many there were."""
    found = [m for m in model.modules() if isinstance(m._modules.get(CHILD), FakeQuantize | Pact)]
    for layer in found:
        take_away(layer)
    return len(found)


def _as_rule(range: Any) -> ActivationRange | tuple[float, float]:
    if isinstance(range, tuple | list):
        if len(range) != 2 or not all(isinstance(end, int | float) for end in range):
            raise ConfigError(f"range: {range}; expected two numbers, or a name")
        return float(range[0]), float(range[1])
    rule: ActivationRange = look_up("range", range, ACTIVATION_RANGES)
    return rule


def _chosen_layers(
    model: nn.Module,
    select: Selectors,
    ignore: Selectors,
    bits: int | Mapping[str, int],
    symmetric: bool,
) -> tuple[dict[str, tuple[nn.Module, int]], dict[str, str]]:
    """The layers by name, each with its bits, and the weights whose layers are left, with why."""
    weights, skipped = survey(model, select=select, ignore=ignore)
    for width in bits.values() if isinstance(bits, Mapping) else [bits]:
        check_bits(width, symmetric)
    widths = (
        assign(model, bits, weights, what="bits")
        if isinstance(bits, Mapping)
        else dict.fromkeys((weight.name for weight in weights), bits)
    )
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, tuple[nn.Module, int]] = {}
    for weight in weights:
        reason = _why_not(weight)
        if not reason and weight.name not in widths:
            reason = "no bits given"
        if reason:
            skipped[weight.name] = reason
            continue
        for layer in users(model, weight):
            if CHILD in layer._modules:
                raise ConfigError(
                    f"quantize_activations_: {names[id(layer)]!r} has a quantizer already. "
                    "Call remove_activation_quantizers_ first, or ignore it"
                )
            found[names[id(layer)]] = (layer, widths[weight.name])
    return found, skipped


def _why_not(weight: Weight) -> str:
    if isinstance(weight.module, _LAYERS) or type(weight.module).__name__ == "Conv1D":
        return ""
    return f"inputs of linear and convolutional layers are quantized, not of {weight.kind} ones"


def _observe(
    model: nn.Module,
    data: Iterable[Any],
    layers: Mapping[str, nn.Module],
    seen: Mapping[str, Observer],
    batches: int | None,
) -> int:
    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], Tensor):
                raise ConfigError(f"quantize_activations_: {name!r} is called without an input")
            try:
                seen[name].update(args[0])
            except ConfigError as error:
                raise ConfigError(f"quantize_activations_: input of {name!r}: {error}") from error

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_attention())
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(hook_of(name)).remove)
        return feed(model, data, batches=batches)


def _quantizer(method: str, bits: int, symmetric: bool, low: float, high: float) -> nn.Module:
    if method == "fixed":
        return FakeQuantize(bits=bits, symmetric=symmetric, low=min(low, high), high=high)
    reach = max(-low, high)
    return Pact(bits=bits, alpha=reach if reach > 0 else 1.0, signed=low < 0)

"""Integer-only inference: what a machine without floating point computes, number for number.

With r = S (q - Z) for the inputs (1), the weights (2, Z = 0) and the outputs (3) of a layer,

    q3 = Z3 + M * (sum (q1 - Z1) q2 + bias),   M = S1 S2 / S3,

the sum is an int32, the bias an int32 with the scale S1 S2, and M an integer of 31 bits and a
shift. This is the reference that kernels are checked against, not a fast path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.layer_inputs import input_rows
from tersor.quantize.affine import AffineGrid
from tersor.quantize.clipping import Pact
from tersor.quantize.fake_quantize import CHILD, FakeQuantize
from tersor.quantize.folding import FoldedNorm

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MOST = 2**31 - 1  # of an accumulator


def fixed_point(multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Positive numbers as M = m * 2**-shift with 2**30 <= m < 2**31; both int64.

    Numbers below 2**-31 have a smaller m and the shift 62.

    >>> m, shift = fixed_point(torch.tensor([0.75]))
    >>> m.item() == 3 * 2**29, shift.item()
    (True, 31)
    """
    fraction, exponent = torch.frexp(multipliers.double())  # 1/2 <= fraction < 1
    whole = (fraction * 2**31).round().long()
    shift = 31 - exponent.long()
    over = whole == 2**31
    whole, shift = torch.where(over, whole // 2, whole), torch.where(over, shift - 1, shift)
    beyond = (shift - 62).clamp(0, 62)
    return whole >> beyond, shift.clamp(max=62)


def rescale(sums: Tensor, m: Tensor, shift: Tensor) -> Tensor:
    """round(sums * m * 2**-shift) in integers; half-way goes up. Sums of int32, all int64."""
    product = sums * m  # below 2**62
    right, left = shift.clamp(min=0), (-shift).clamp(min=0)
    half = torch.ones_like(shift) << (right - 1).clamp(min=0)
    return torch.where(shift > 0, (product + half) >> right, product << left)


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A linear or convolutional layer in integers.

    Args:
        layer: for stride, padding and such; its weights are not looked at.
        weight: (out, in, *kernel) int8, or int16 for more bits.
        weight_scale: (out,) float64.
        bias: (out,) int64 that fit into int32, with the scale of the sums.
        inputs: the grid of what comes in.
        outputs: the grid of what goes out; None: `sums` alone.
        relu: whether what is below zero becomes zero.
    """

    layer: nn.Module
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    inputs: FakeQuantize
    outputs: FakeQuantize | None = None
    relu: bool = False

    @property
    def sum_scale(self) -> Tensor:
        """(out,) S1 * S2, float64: what an integer of `sums` stands for."""
        return self.inputs.scale.double() * self.weight_scale

    def sums(self, codes: Tensor) -> Tensor:
        """The accumulators of some input codes, int64 that fit into int32; outputs of the layer.

        Raises:
            ConfigError: one of them would not fit into 32 bits.
        """
        inputs = codes.long() - int(self.inputs.zero_point)
        shaped = _forward_shape(self.layer, inputs)
        units = self.weight.long().flatten(1)
        found = []
        for rows in input_rows(self.layer, inputs, shaped):  # (groups, rows, n)
            grouped = units.view(len(rows), -1, units.shape[1])
            found.append((rows @ grouped.mT).movedim(0, 1).flatten(1))  # (rows, out)
        total = torch.cat(found) + self.bias
        if total.numel() and int(total.abs().max()) > _MOST:
            raise ConfigError("integers: a sum does not fit into 32 bits; take fewer bits")
        if isinstance(self.layer, nn.Linear):
            return total.view(shaped.shape)
        sides = shaped.dim() - len(self.layer.kernel_size)  # type: ignore[arg-type]  # of a convolution
        places = shaped.shape[sides:]
        batched = total.view(*shaped.shape[: sides - 1], *places, len(self.weight))
        return batched.movedim(-1, sides - 1)

    def __call__(self, codes: Tensor) -> Tensor:
        """Output codes, int32.

        Raises:
            ConfigError: there is no grid for the outputs, or as `sums`.
        """
        if self.outputs is None:
            raise ConfigError("integers: the layer has no grid for its outputs; use `sums`")
        m, shift = fixed_point(self.sum_scale / self.outputs.scale.double())
        channel = self._per_channel
        scaled = rescale(self.sums(codes), channel(m), channel(shift))
        zero_point, levels = int(self.outputs.zero_point), self.outputs.levels
        low = max(levels.low, zero_point) if self.relu else levels.low
        return (scaled + zero_point).clamp(low, levels.high).to(torch.int32)

    def decode(self, sums: Tensor) -> Tensor:
        """What sums stand for, float64."""
        values = sums.double() * self._per_channel(self.sum_scale)
        return values.relu() if self.relu else values

    def _per_channel(self, numbers: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return numbers
        return numbers.view(-1, *[1] * len(self.layer.kernel_size))  # type: ignore[arg-type]  # as above


def to_integers(
    layer: nn.Module,
    *,
    grid: AffineGrid | None = None,
    outputs: FakeQuantize | None = None,
    relu: bool = False,
) -> IntegerLayer:
    """The integers of a layer whose weights and inputs are quantized.

    Args:
        layer: linear or convolutional, its input quantized (`quantize_activations_`), its weights
            on a symmetric grid with a scale for each output channel or the whole tensor.
        grid: of the weights; None: found from their values, up to 8 bits.
        outputs: the grid of the outputs, as a rule that of the next layer's input.
        relu: whether a ReLU stands behind it.

    Raises:
        ConfigError: the layer is not of this kind, or its bias does not fit into 32 bits.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 2. The multiplier is rounded once, half-way
    up, from the exact 64-bit product; gemmlowp rounds twice.

    >>> from tersor.quantize import Affine, quantize_, quantize_activations_
    >>> layer, inputs = nn.Linear(4, 2), torch.rand(9, 4)
    >>> _ = quantize_(layer, Affine(8)), quantize_activations_(layer, [inputs])
    >>> integers = to_integers(layer)
    >>> integers.weight.dtype, integers.bias.abs().max().item() < 2**31
    (torch.int8, True)
    >>> sums = integers.sums(layer.input_quantizer.integers(inputs))
    >>> torch.allclose(integers.decode(sums).float(), layer(inputs), atol=1e-4)
    True
    """
    if not isinstance(layer, _LAYERS):
        raise ConfigError(f"integers: {type(layer).__name__} is no linear or convolutional layer")
    if getattr(layer, "padding_mode", "zeros") not in ("zeros", "circular", "reflect", "replicate"):
        raise ConfigError(f"integers: padding_mode {layer.padding_mode!r} is not known")
    inputs = layer._modules.get(CHILD)
    if isinstance(inputs, Pact):
        inputs = inputs.fixed()
    if not isinstance(inputs, FakeQuantize):
        raise ConfigError("integers: the layer's input is not quantized; quantize_activations_")
    weight = layer.weight.detach()
    codes, scale = _weight_integers(weight, grid)
    bias = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    if layer.bias is not None:
        exact = layer.bias.detach().double() / (inputs.scale.double() * scale)
        if int(exact.abs().max().ceil()) > _MOST:
            raise ConfigError(
                "integers: a bias does not fit into 32 bits, so small are the scales of the "
                "layer's input and weights"
            )
        bias = exact.round().long()
    return IntegerLayer(layer, codes, scale, bias, inputs, outputs, relu)


class IntegerNetwork:
    """A chain of layers that hands on codes alone, from the quantized input to the last sums.

    Args:
        model: `nn.Sequential`s of quantized linear and convolutional layers (as `to_integers`
            takes them), with ReLU, max pooling, flattening and what does nothing between them.
            Batch norms are folded before: `fold_batch_norms_`.

    Raises:
        ConfigError: another module is among them, or a layer that is not quantized.

    Source: as `to_integers`. Max pooling and ReLU are the same on codes, as rounding is monotone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before: list[nn.Module] = []  # of the first layer
        self.layers: list[IntegerLayer] = []
        self.after: list[list[nn.Module]] = []  # of each layer, on codes
        for name, module in _chain(model):
            if isinstance(module, _LAYERS):
                try:
                    self.layers.append(to_integers(module))
                except ConfigError as error:
                    raise ConfigError(f"{name!r}: {error}") from error
                self.after.append([])
            elif isinstance(module, nn.ReLU):
                if not self.layers:
                    raise ConfigError(f"integers: {name!r}, a ReLU, stands before the first layer")
                self.layers[-1] = replace(self.layers[-1], relu=True)
            elif isinstance(module, nn.Flatten | nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
                (self.after[-1] if self.layers else self.before).append(module)
            elif not isinstance(module, nn.Identity | FoldedNorm | nn.Dropout | nn.Dropout2d):
                raise ConfigError(
                    f"integers: {name!r} is a {type(module).__name__}, of which nothing is known "
                    "in integers"
                )
        if not self.layers:
            raise ConfigError("integers: the model has no layers")
        for index, following in enumerate(self.layers[1:]):
            self.layers[index] = replace(self.layers[index], outputs=following.inputs)

    def __call__(self, values: Tensor) -> Tensor:
        """Outputs of some inputs, float64: the last sums times their scale."""
        for module in self.before:
            values = module(values)
        codes = self.layers[0].inputs.integers(values)
        for layer, modules in zip(self.layers[:-1], self.after[:-1], strict=True):
            codes = _on_codes(modules, layer(codes))
        last = self.layers[-1]
        return _on_codes(self.after[-1], last.decode(last.sums(codes)))


def _on_codes(modules: list[nn.Module], codes: Tensor) -> Tensor:
    kind = codes.dtype
    for module in modules:
        codes = module(codes.double()).to(kind)  # exact
    return codes


def _chain(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    if type(model) is not nn.Sequential:
        return [(prefix.rstrip("."), model)]
    return [
        found
        for name, module in model.named_children()
        for found in _chain(module, f"{prefix}{name}.")
    ]


def _weight_integers(weight: Tensor, grid: AffineGrid | None) -> tuple[Tensor, Tensor]:
    """The codes of a weight, and the scale of each output channel in float64."""
    if grid is None:
        return _found_integers(weight)
    if bool((grid.zero_point != 0).any()) or grid.blocks.per_row != 1:
        raise ConfigError(
            "integers: the grid of the weights has zero points or several scales a channel; "
            "expected Affine(symmetric=True) by channel or tensor"
        )
    if not torch.equal(grid.round(weight), weight):
        raise ConfigError("integers: the weights are not on their grid; quantize_ first")
    kind = torch.int8 if grid.bits <= 8 else torch.int16
    return grid.integers(weight).to(kind), grid.scale.double().flatten().expand(len(weight))


def _found_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale * q for whole q from -127 to 127, row by row, bit for bit."""
    rows = weight.flatten(1)
    largest = rows.abs().amax(1)
    codes = torch.zeros(weight.shape, dtype=torch.int8, device=weight.device).flatten(1)
    scales = torch.ones(len(rows), dtype=weight.dtype, device=weight.device)
    left = largest > 0
    for top in range(127, 0, -1):
        for nudge in (0, -1, 1):
            at = left.nonzero().flatten()
            if len(at) == 0:
                return codes.view(weight.shape), scales.double()
            scale = largest[at] / top
            if nudge:
                scale = torch.nextafter(scale, torch.full_like(scale, nudge * math.inf))
            found = (rows[at] / scale[:, None]).round()
            fits = (found * scale[:, None] == rows[at]).all(1)
            codes[at[fits]] = found[fits].to(torch.int8)
            scales[at[fits]] = scale[fits]
            left[at[fits]] = False
    row = int(left.nonzero()[0])
    raise ConfigError(
        f"integers: the weights of output {row} are no multiples, up to 127, of one number; "
        "quantize_(model, Affine(8)) first, or say which grid"
    )


def _forward_shape(layer: nn.Module, codes: Tensor) -> Tensor:
    """A tensor shaped as the layer's outputs, of no memory."""
    forward: Callable[[Tensor], Tensor] = layer.forward  # without the hooks of the layer
    sides = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)  # type: ignore[arg-type]  # of a convolution
    batched = codes.dim() > sides + 1
    with torch.no_grad():
        one = codes[:1] if batched else codes
        shape = forward(torch.zeros_like(one, dtype=layer.weight.dtype)).shape  # type: ignore[arg-type]  # a tensor
    return torch.empty(1).expand((len(codes), *shape[1:]) if batched else shape)

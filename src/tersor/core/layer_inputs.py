"""What comes into a layer: the numbers that each output is a weighted sum of.

A linear or convolutional layer is rows @ W^T + bias, with a row of inputs for each place where its
weight is used: one a sample for a Linear, one a position for a convolution (`unfold`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.units import users
from tersor.core.weights import Weight

_SAMPLES = 16  # of a convolution that are unfolded together


@contextlib.contextmanager
def watching_inputs(
    model: nn.Module, weights: Iterable[Weight], take: Callable[[Weight, Tensor], None]
) -> Iterator[dict[str, str]]:
    """While it lasts, what comes into each layer at a call goes to `take`, as rows.

    The rows have the shape (groups, rows, inputs of a unit), the inputs in the order of
    `units.as_units`. A layer that is called many times, or whose weight others share, gives the
    rows of all calls. Whether gradients are wanted and which mode the model is in is the caller's.

    Yields:
        A mapping that says, when all is over, why a weight had no rows.

    >>> layer = nn.Linear(3, 2)
    >>> with watching_inputs(layer, [Weight("weight", "linear", layer.weight, layer)],
    ...                      lambda weight, rows: print(weight.name, tuple(rows.shape))):
    ...     _ = layer(torch.ones(4, 5, 3))
    weight (1, 20, 3)
    """
    weights = list(weights)
    refused = {w.name: reason for w in weights if (reason := _why_not(w))}
    seen: set[str] = set()
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_attention())  # its fused form does not call its layers
        for weight in weights:
            if weight.name not in refused:
                for module in users(model, weight):
                    handle = module.register_forward_hook(_hook(weight, take, seen))
                    stack.callback(handle.remove)
        yield refused
    for weight in weights:
        if weight.name not in seen:
            refused.setdefault(weight.name, "its layer is not called as a module on this data")


def input_rows(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Iterator[Tensor]:
    """The rows of one call, a part of the samples at a time: (groups, rows, inputs of a unit)."""
    if not isinstance(module, _CONVOLUTIONS):
        yield inputs.reshape(1, -1, inputs.shape[-1])
        return
    groups, sides = int(module.groups), len(module.kernel_size)
    if inputs.dim() == sides + 1:
        inputs, outputs = inputs[None], outputs[None]
    for part in inputs.split(_SAMPLES):
        windows = _windows(module, part, outputs.shape[2:])  # (N, C, *positions, *kernel)
        windows = windows.unflatten(1, (groups, -1)).movedim((1, 2), (0, 2 + sides))
        # (groups, N, *positions, C / groups, *kernel)
        yield windows.reshape(groups, -1, windows.shape[2 + sides :].numel())


def _windows(module: Any, inputs: Tensor, positions: torch.Size) -> Tensor:
    """For each output position what the kernel meets there, in the order of its entries."""
    kernel, steps, gaps = module.kernel_size, module.stride, module.dilation
    if isinstance(module, _TRANSPOSED):
        # It is a convolution of the inputs with zeros between them, by the turned kernel.
        inputs = _spaced(inputs, steps)
        steps = (1,) * len(kernel)
        padding = []
        for side in reversed(range(len(kernel))):
            reach = gaps[side] * (kernel[side] - 1)
            before = reach - module.padding[side]
            after = positions[side] + reach - before - inputs.shape[2 + side]
            padding += [before, after]
        inputs = F.pad(inputs, padding)
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs = F.pad(inputs, module._reversed_padding_repeated_twice, mode)
    for side, (size, step, gap) in enumerate(zip(kernel, steps, gaps, strict=True)):
        inputs = inputs.unfold(2 + side, gap * (size - 1) + 1, step)[..., ::gap]
    if isinstance(module, _TRANSPOSED):
        inputs = inputs.flip(list(range(-len(kernel), 0)))
    return inputs


def _spaced(inputs: Tensor, steps: tuple[int, ...]) -> Tensor:
    """`step - 1` zeros between two neighbours along each side."""
    sides = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], steps, strict=True)]
    spaced = inputs.new_zeros(*inputs.shape[:2], *sides)
    places: list[Any] = [..., *(slice(None, None, step) for step in steps)]
    spaced[tuple(places)] = inputs
    return spaced


def _hook(
    weight: Weight, take: Callable[[Weight, Tensor], None], seen: set[str]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
        seen.add(weight.name)
        for rows in input_rows(module, args[0], outputs):
            take(weight, rows)

    return hook


def _why_not(weight: Weight) -> str:
    if weight.kind not in ("linear", "conv", "conv_transposed"):
        return f"it looks at the inputs of linear and convolutional layers, this is {weight.kind}"
    if isinstance(weight.module, nn.Bilinear):
        return "the outputs of a Bilinear are no weighted sums of its inputs"
    return ""


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """While it lasts attention calls its layers, not one fused operation with their weights."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

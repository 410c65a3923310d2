"""Parts of a layer: the convolutions and linear maps that its factors become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.utils import skip_init

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_KINDS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def linear(like: nn.Module, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear layer on the device and of the dtype of another layer."""
    return _zeros(nn.Linear, inputs, outputs, bias, **_place(like))  # type: ignore[no-any-return]


def convolution(
    like: Any,
    inputs: int,
    outputs: int,
    sides: Sequence[bool],
    *,
    groups: int = 1,
    bias: bool = False,
) -> nn.Module:
    """A convolution with the kernel, steps and padding of another one along some sides alone.

    Args:
        like: the layer that is replaced.
        sides: for each side of its kernel whether this part has it; along the others it is 1 wide.
    """

    def along(values: Sequence[int], otherwise: int) -> tuple[int, ...]:
        return tuple(v if on else otherwise for v, on in zip(values, sides, strict=True))

    padding = like.padding
    if not isinstance(padding, str):
        padding = along(padding, 0)
    elif not any(sides):
        padding = 0
    made: nn.Module = _zeros(
        _KINDS[len(sides)],
        inputs,
        outputs,
        along(like.kernel_size, 1),
        along(like.stride, 1),
        padding,
        along(like.dilation, 1),
        groups,
        bias,
        like.padding_mode if any(sides) else "zeros",
        **_place(like),
    )
    return made


def sides_of(layer: Any) -> int:
    """Sides of the kernel of a convolution."""
    return len(layer.kernel_size)


def _zeros(kind: Any, *args: Any, **place: Any) -> Any:
    """A layer of zeros; random ones would move the global generators."""
    made = skip_init(kind, *args, **place)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def _place(like: Any) -> dict[str, Any]:
    return {"device": like.weight.device, "dtype": like.weight.dtype}

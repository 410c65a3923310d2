"""Which weights go together: the dimensions of a weight tensor that one group spans.

A group is all weights that differ in these dimensions alone, so whatever belongs to a group (a
norm, a gate) is a tensor of the weight's shape with 1 in place of them, and broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.tables import look_up
from tersor.core.weights import Weight

Dims = tuple[int, ...]

GROUPS: dict[str, Callable[[int], Dims]] = {
    "element": lambda dims: (),
    "row": lambda dims: tuple(range(1, dims)),
    "column": lambda dims: (0, *range(2, dims)),
    "kernel": lambda dims: tuple(range(2, dims)),
    "position": lambda dims: (0,),
    "layer": lambda dims: tuple(range(dims)),
}
"""Name to the dimensions that a group spans, of a weight `(out, in, *kernel)` of so many:

single weights; all that make one output (filter); all that read one input (channel); the kernel
between one input and one output; the same place of all filters, which is one column of the
matrix that a convolution is lowered to; the whole tensor.
"""

Groups = str | Dims


def spanned(weight: Weight, groups: Groups) -> Dims:
    """The dimensions that a group of this weight spans.

    Args:
        weight: one of `prunable(model)`. Where torch has `(in, out, *kernel)`, as in transposed
            convolutions, the names of `GROUPS` mean the same outputs and inputs.
        groups: a name of `GROUPS`, or the dimensions themselves.

    Raises:
        ConfigError: the name is unknown, or the weight has no such dimension.

    >>> from torch import nn
    >>> from tersor.core import prunable
    >>> [spanned(prunable(nn.Conv2d(3, 8, 5))[0], g) for g in ("row", "column", "position")]
    [(1, 2, 3), (0, 2, 3), (0,)]
    """
    dims = len(weight.shape)
    if not isinstance(groups, str):
        if len(set(groups)) < len(groups) or not all(0 <= dim < dims for dim in groups):
            raise ConfigError(
                f"groups {tuple(groups)}: {weight.name!r} has the dimensions 0 to {dims - 1}; "
                "expected some of them, each once"
            )
        return tuple(groups)
    found = look_up("groups", groups, GROUPS)(dims)
    return tuple(_EXCHANGED.get(dim, dim) for dim in found) if _inputs_first(weight) else found


def group_size(shape: Iterable[int], dims: Dims) -> int:
    """How many weights one group has.

    >>> group_size((50, 20, 5, 5), (1, 2, 3))
    500
    """
    sides = tuple(shape)
    return math.prod(sides[dim] for dim in dims)


def group_norms(weight: Tensor, dims: Dims) -> Tensor:
    """The L2 norm of each group, with 1 in place of `dims`; its gradient at a zero group is 0."""
    return torch.linalg.vector_norm(weight, dim=dims, keepdim=True) if dims else weight.abs()


_EXCHANGED = {0: 1, 1: 0}


def _inputs_first(weight: Weight) -> bool:
    return weight.kind == "conv_transposed" or type(weight.module).__name__ == "Conv1D"

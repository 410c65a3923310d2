"""Groups of weights as a view: a weight in another shape, and the dimensions that a group spans.

So whatever belongs to a group (a norm, a gate) has 1 in place of these dimensions, and broadcasts.
Which weights go together is a pattern's answer (`tersor.prune.patterns`): "element", "row",
"channel", "kernel", "layer", "4x1" for blocks, or a function such as `position`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.weights import Weight
from tersor.prune.patterns import Layout, Part, Pattern, Unit, pattern_of

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Grouped:
    """A weight in groups.

    Args:
        weight: `(out, in, *kernel)`.
        shape: as which it is looked at, of as many entries in the same order.
        dims: the dimensions of `shape` that one group spans.
    """

    weight: Weight
    shape: tuple[int, ...]
    dims: Dims

    @property
    def size(self) -> int:
        """Weights of one group."""
        return group_size(self.shape, self.dims)

    @property
    def count(self) -> int:
        """Groups."""
        return group_size(self.shape, tuple(set(range(len(self.shape))) - set(self.dims)))

    def view(self) -> Tensor:
        """The weight in this shape; what is changed in it is changed in the weight."""
        return self.weight.parameter.view(self.shape)

    def norms(self) -> Tensor:
        """The L2 norm of each group."""
        return group_norms(self.view(), self.dims)


def grouped(weights: list[Weight], pattern: str | Pattern) -> tuple[list[Grouped], dict[str, str]]:
    """Weights in the groups of a pattern, and for each that it does not fit the reason.

    Raises:
        ConfigError: the pattern is unknown, fits no weight, binds groups of several weights
            ("head"), or is a choice within a group ("2:4").

    >>> from torch import nn
    >>> from tersor.core import prunable
    >>> [found], _ = grouped(prunable(nn.Conv2d(3, 8, 5)), "row")
    >>> found.dims, found.count, found.size
    ((1, 2, 3), 8, 75)
    """
    units, skipped = pattern_of(pattern)(weights)
    by_name = {weight.name: weight for weight in weights}
    found = []
    for unit in units:
        if len(unit.parts) > 1 or unit.at_most is not None:
            raise ConfigError(
                f"pattern {pattern!r}: {unit.name!r} has groups that a norm or a gate cannot stand "
                "for; expected element, row, channel, kernel, layer, position or HxW"
            )
        ((name, part),) = unit.parts.items()
        dims = tuple(dim for dim in range(len(part.split)) if dim not in part.grouped)
        found.append(Grouped(by_name[name], part.split, dims))
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ConfigError(f"pattern {pattern!r} fits no weight ({reasons})")
    return found, skipped


def position(weights: list[Weight]) -> Layout:
    """The same place in all filters: a column of the matrix that a convolution is lowered to.

    Source: Lebedev and Lempitsky 2016, arXiv 1506.02515, eq. 4 (their Gamma_ijs).

    >>> from torch import nn
    >>> from tersor.core import prunable
    >>> [found], _ = grouped(prunable(nn.Conv2d(3, 8, 5)), position)
    >>> found.dims, found.count, found.size
    ((0,), 75, 8)
    """
    units, skipped = pattern_of("row")(weights)  # knows which dimension the outputs are
    turned = []
    for unit in units:
        ((name, part),) = unit.parts.items()
        rest = tuple(dim for dim in range(len(part.split)) if dim not in part.grouped)
        turned.append(Unit(name, {name: Part(part.shape, part.split, rest)}))
    return turned, skipped


def group_size(shape: Iterable[int], dims: Dims) -> int:
    """How many entries one group has.

    >>> group_size((50, 20, 5, 5), (1, 2, 3))
    500
    """
    sides = tuple(shape)
    return math.prod(sides[dim] for dim in dims)


def group_norms(values: Tensor, dims: Dims) -> Tensor:
    """The L2 norm of each group, with 1 in place of `dims`; its gradient at a zero group is 0."""
    return torch.linalg.vector_norm(values, dim=dims, keepdim=True) if dims else values.abs()

"""Canonical polyadic decomposition: a convolution as sums of products of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.factorize.decomposing import cp
from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import convolution, sides_of
from tersor.factorize.low_rank import refuses_convolution
from tersor.factorize.tucker import check_sweeps


@dataclass(frozen=True)
class Cp:
    """1 x 1 (in to R), one depthwise convolution along each side, 1 x 1 (R to out).

    W[f, c, i, j] ~ sum_r a[f, r] b[c, r] h[i, r] v[j, r], by alternating least squares.

    Args:
        sweeps: of it.

    Raises:
        ConfigError: sweeps below 1.

    Source: Hitchcock 1927; as a layer Lebedev et al. 2015, arXiv 1412.6553.
    """

    sweeps: int = 100
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sweeps(self.sweeps)

    def refuses(self, layer: nn.Module) -> str:
        return refuses_convolution(layer)

    def most(self, layer: Any) -> Rank:
        # A tensor never needs more terms than this: all sides but the longest.
        shape = list(layer.weight.shape)
        return (layer.weight.numel() // max(shape),)

    def count(self, layer: Any, rank: Rank) -> int:
        return rank[0] * int(sum(layer.weight.shape))

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return []

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return []

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        out, inputs, *sides = cp(weight, rank[0], self.sweeps, seed)
        ones = (1,) * len(sides)
        parts = [inputs.T.reshape(rank[0], -1, *ones)]
        for place, side in enumerate(sides):
            shape = [1] * len(sides)
            shape[place] = len(side)
            parts.append(side.T.reshape(rank[0], 1, *shape))
        return [*parts, out.reshape(*out.shape, *ones)]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        sides, off = sides_of(layer), [False] * sides_of(layer)
        parts = [convolution(layer, layer.in_channels, rank[0], off)]
        for place in range(sides):
            on = [other == place for other in range(sides)]
            parts.append(convolution(layer, rank[0], rank[0], on, groups=rank[0]))
        last = convolution(layer, rank[0], layer.out_channels, off, bias=layer.bias is not None)
        return [*parts, last]

    def product(self, factors: list[Tensor]) -> Tensor:
        first, *sides, last = factors
        kernel = sides[0][:, 0]  # (R, *sides), built up by broadcasting
        for side in sides[1:]:
            kernel = kernel * side[:, 0]
        return torch.einsum("fr,rc,r...->fc...", last.flatten(1), first.flatten(1), kernel)

"""Block-term decomposition: a matrix as a sum of small Tucker decompositions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.factorize.decomposing import tucker
from tersor.factorize.factorizer import Rank
from tersor.factorize.tensor_train import parted
from tersor.factorize.tucker import check_sweeps


class BlockTermLinear(nn.Module):
    """A linear map whose weight is sum_n G_n x_1 C_n1 x_2 ... x_d C_nd.

    Shapes: (*, prod inputs) -> (*, prod outputs); the core (N, R, .., R) and for each part
    (N, outputs_k, inputs_k, R).
    """

    def __init__(
        self,
        outputs: Sequence[int],
        inputs: Sequence[int],
        blocks: int,
        ranks: Sequence[int],
        bias: bool,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = math.prod(inputs), math.prod(outputs)
        self.core = nn.Parameter(torch.zeros(blocks, *ranks))
        shapes = zip(outputs, inputs, ranks, strict=True)
        self.factors = nn.ParameterList(nn.Parameter(torch.zeros(blocks, *s)) for s in shapes)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, product([self.core, *self.factors]), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def product(factors: Sequence[Tensor]) -> Tensor:
    """The weight (prod outputs, prod inputs) of the core and the factors."""
    core, *sides = factors
    ranks = ascii_lowercase[1 : core.dim()]
    outputs, inputs = ascii_uppercase[: len(sides)], ascii_uppercase[-len(sides) :]
    terms = ",".join(f"a{m}{n}{r}" for m, n, r in zip(outputs, inputs, ranks, strict=True))
    whole = torch.einsum(f"a{ranks},{terms}->{outputs}{inputs}", core, *sides)
    return whole.flatten(0, len(sides) - 1).flatten(1)


@dataclass(frozen=True)
class BlockTerm:
    """A sum of Tucker decompositions of a linear layer's weight, its sides parted as for a train.

    Each block is fitted to what the blocks before it have left; one block is Tucker's
    decomposition, and training does the rest. The rank bounds every side of every core.

    Args:
        blocks: N.
        parts: d, the sides of a core.
        sweeps: of alternating least squares, a block.

    Raises:
        ConfigError: a setting is out of range.

    Source: De Lathauwer 2008, SIAM J. Matrix Anal. Appl. 30(3); as a layer Ye et al. 2018,
    arXiv 1712.05134: N (sum_k outputs_k inputs_k R + R^d) weights. They train from scratch.
    """

    blocks: int = 2
    parts: int = 3
    sweeps: int = 20
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sweeps(self.sweeps)
        if self.blocks < 1 or not 2 <= self.parts <= 8:
            raise ConfigError(
                f"blocks {self.blocks}, parts {self.parts}; expected 1 or more, and 2 to 8"
            )

    def refuses(self, layer: Any) -> str:
        if not isinstance(layer, nn.Linear):
            return f"takes linear layers, this is {type(layer).__name__}"
        if max(sum(m > 1 for m in sides) for sides in self._sides(layer)) < 2:
            rows, columns = layer.weight.shape
            return f"neither {rows} nor {columns} is a product"
        return ""

    def most(self, layer: Any) -> Rank:
        return (max(m * n for m, n in zip(*self._sides(layer), strict=True)),)

    def count(self, layer: Any, rank: Rank) -> int:
        pairs = list(zip(*self._sides(layer), strict=True))
        ranks = self._ranks(layer, rank[0])
        sides = sum(m * n * r for (m, n), r in zip(pairs, ranks, strict=True))
        return self.blocks * (sides + math.prod(ranks))

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return []

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return []

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        outputs, inputs = (parted(side, self.parts) for side in weight.shape)
        pairs = [m * n for m, n in zip(outputs, inputs, strict=True)]
        order = [p for k in range(self.parts) for p in (k, self.parts + k)]
        rest = weight.reshape(*outputs, *inputs).permute(order).reshape(pairs)
        ranks = [min(rank[0], pair) for pair in pairs]
        found: list[list[Tensor]] = []
        for _ in range(self.blocks):
            core, *sides = tucker(rest, ranks, self.sweeps)
            found.append([core, *sides])
            block = core
            for side in sides:  # the first axis goes, and comes back at the end
                block = torch.tensordot(block, side, dims=([0], [1]))
            rest = rest - block
        core, *sides = (torch.stack(parts) for parts in zip(*found, strict=True))
        shaped = [
            side.view(self.blocks, m, n, -1)
            for side, m, n in zip(sides, outputs, inputs, strict=True)
        ]
        return [core, *shaped]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        outputs, inputs = self._sides(layer)
        ranks = self._ranks(layer, rank[0])
        made = BlockTermLinear(outputs, inputs, self.blocks, ranks, layer.bias is not None)
        return [made.to(layer.weight)]

    def product(self, factors: list[Tensor]) -> Tensor:
        return product(factors)

    def _sides(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows, columns = layer.weight.shape
        return parted(rows, self.parts), parted(columns, self.parts)

    def _ranks(self, layer: Any, rank: int) -> list[int]:
        return [min(rank, m * n) for m, n in zip(*self._sides(layer), strict=True)]

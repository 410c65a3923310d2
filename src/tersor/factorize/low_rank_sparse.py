"""Low rank plus sparse: a product of two matrices, and the few entries that it misses most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import convolution, linear, sides_of
from tersor.factorize.low_rank import Svd
from tersor.factorize.matrices import best_pair


class LowRankPlusSparse(nn.Module):
    """The sum of two layers: `low_rank`, which has the bias, and `sparse`, mostly zeros."""

    def __init__(self, low_rank: nn.Sequential, sparse: nn.Module) -> None:
        super().__init__()
        self.low_rank = low_rank
        self.sparse = sparse

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.low_rank(x)
        rest: Tensor = self.sparse(x)
        return low + rest


@dataclass(frozen=True)
class LowRankSparse:
    """W ~ L + S with rank(L) = k and a share `density` of the entries of S not zero.

    In turn the best L for W - S and the best S for W - L, until nothing moves; each step is
    optimal, so the error never grows. It begins with S = 0 and with the largest entries of W,
    and the better end is taken.

    Args:
        density: of S.
        sweeps: at most so many turns.
        tolerance: a turn that lessens the squared error by less, relatively, is the last.

    Raises:
        ConfigError: a setting is out of range.

    Source: Zhou and Tao 2011 (ICML), GoDec, naive form; as compression Yu et al. 2017 (CVPR), who
    weigh the error by the inputs.
    """

    density: float = 0.05
    sweeps: int = 20
    tolerance: float = 1e-4
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigError(f"density: {self.density}; expected 0 < density <= 1")
        if self.sweeps < 1 or self.tolerance < 0:
            raise ConfigError(
                f"sweeps {self.sweeps}, tolerance {self.tolerance}; expected 1 or more, 0 or more"
            )

    def refuses(self, layer: nn.Module) -> str:
        return _SVD.refuses(layer)

    def most(self, layer: Any) -> Rank:
        return _SVD.most(layer)

    def count(self, layer: Any, rank: Rank) -> int:
        return _SVD.count(layer, rank) + self._entries(layer.weight)

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return []

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return _SVD.matrices(weight)

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        matrix = weight.flatten(1)
        starts = (torch.zeros_like(matrix), _largest(matrix, self._entries(weight)))
        found = [self._alternate(matrix, rank[0], start) for start in starts]
        _, left, right, sparse = min(found, key=lambda result: result[0])
        ones = (1,) * (weight.dim() - 2)
        return [
            right.view(rank[0], *weight.shape[1:]),
            left.view(*left.shape, *ones),
            sparse.view_as(weight),
        ]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        low = nn.Sequential(*_SVD.build(layer, rank))
        if isinstance(layer, nn.Linear):
            sparse: nn.Module = linear(layer, layer.in_features, layer.out_features)
        else:
            sides = [True] * sides_of(layer)
            sparse = convolution(layer, layer.in_channels, layer.out_channels, sides)
        return [LowRankPlusSparse(low, sparse)]

    def product(self, factors: list[Tensor]) -> Tensor:
        return _SVD.product(factors[:2]) + factors[2]

    def _alternate(
        self, matrix: Tensor, rank: int, sparse: Tensor
    ) -> tuple[float, Tensor, Tensor, Tensor]:
        """The squared error, both factors and the sparse part, from a first sparse part on."""
        before = float("inf")
        for _ in range(self.sweeps):
            left, right = best_pair(matrix - sparse, rank)
            rest = matrix - left @ right
            sparse = _largest(rest, self._entries(matrix))
            error = float((rest - sparse).square().sum())
            if before - error <= self.tolerance * before:
                break
            before = error
        return error, left, right, sparse

    def _entries(self, weight: Tensor) -> int:
        return max(1, round(self.density * weight.numel()))


_SVD = Svd()


def _largest(matrix: Tensor, count: int) -> Tensor:
    """So many entries of the largest absolute value, zeros elsewhere; of equals the first ones."""
    order = matrix.abs().flatten().sort(descending=True, stable=True).indices[:count]
    kept = torch.zeros(matrix.numel(), dtype=matrix.dtype, device=matrix.device)
    kept[order] = matrix.flatten()[order]
    return kept.view_as(matrix)

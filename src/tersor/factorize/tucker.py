"""Tucker-2: a convolution between two that only mix channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.factorize.decomposing import tucker_2
from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import convolution, sides_of
from tersor.factorize.low_rank import refuses_convolution


@dataclass(frozen=True)
class Tucker:
    """1 x 1 (in to R_in), k x k (R_in to R_out), 1 x 1 (R_out to out).

    W[f, c] ~ sum_rs U[f, r] G[r, s] V[c, s], a small kernel G; a rank is the pair (R_out, R_in).

    Args:
        sweeps: of alternating least squares (HOOI), which begins with the SVDs of the unfoldings.

    Raises:
        ConfigError: sweeps below 1.

    Source: Tucker 1966, Psychometrika 31; as a layer Kim et al. 2016, arXiv 1511.06530.
    """

    sweeps: int = 20
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sweeps(self.sweeps)

    def refuses(self, layer: nn.Module) -> str:
        return refuses_convolution(layer)

    def most(self, layer: Any) -> Rank:
        out, inputs = layer.weight.shape[:2]
        rest = layer.weight[0, 0].numel()
        return (min(out, inputs * rest), min(inputs, out * rest))

    def count(self, layer: Any, rank: Rank) -> int:
        out, inputs = layer.weight.shape[:2]
        return int(
            out * rank[0] + inputs * rank[1] + rank[0] * rank[1] * layer.weight[0, 0].numel()
        )

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return [torch.linalg.svdvals(matrix) for matrix in self.matrices(weight)]

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return [weight.flatten(1), weight.transpose(0, 1).flatten(1)]

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        core, out, inputs = tucker_2(weight, rank, self.sweeps)
        ones = (1,) * (weight.dim() - 2)
        return [inputs.T.reshape(*inputs.T.shape, *ones), core, out.view(*out.shape, *ones)]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        on, off = [True] * sides_of(layer), [False] * sides_of(layer)
        return [
            convolution(layer, layer.in_channels, rank[1], off),
            convolution(layer, rank[1], rank[0], on),
            convolution(layer, rank[0], layer.out_channels, off, bias=layer.bias is not None),
        ]

    def product(self, factors: list[Tensor]) -> Tensor:
        inputs, core, out = factors
        return torch.einsum("fr,rs...,sc->fc...", out.flatten(1), core, inputs.flatten(1))


def check_sweeps(sweeps: int) -> None:
    """Raise ConfigError unless there is a sweep."""
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ConfigError(f"sweeps: {sweeps!r}; expected a whole number, 1 or more")

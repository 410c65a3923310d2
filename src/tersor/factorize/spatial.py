"""A convolution in two: one along the height, one along the width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import convolution
from tersor.factorize.low_rank import refuses_convolution
from tersor.factorize.matrices import best_pair


@dataclass(frozen=True)
class SpatialSvd:
    """k_h x 1 with K maps, then 1 x k_w: W[f, c, i, j] ~ sum_k v[k, c, i] h[f, k, j].

    The best K maps are those of the SVD of W as a matrix (in * k_h, out * k_w).

    Source: Jaderberg, Vedaldi and Zisserman 2014, arXiv 1405.3866, scheme 2, by its closed form.
    """

    needs_inputs: ClassVar[bool] = False

    def refuses(self, layer: Any) -> str:
        reason = refuses_convolution(layer)
        if reason or isinstance(layer, nn.Conv2d):
            return reason
        return f"takes convolutions of two sides, this is {type(layer).__name__}"

    def most(self, layer: Any) -> Rank:
        out, inputs, height, width = layer.weight.shape
        return (min(inputs * height, out * width),)

    def count(self, layer: Any, rank: Rank) -> int:
        out, inputs, height, width = layer.weight.shape
        return rank[0] * int(inputs * height + out * width)

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return [torch.linalg.svdvals(_matrix(weight))]

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return [_matrix(weight)]

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        out, inputs, height, width = weight.shape
        left, right = best_pair(_matrix(weight), rank[0])  # (in * kh, K), (K, out * kw)
        down = left.view(inputs, height, rank[0]).permute(2, 0, 1)[..., None]  # (K, in, kh, 1)
        across = right.view(rank[0], out, width).transpose(0, 1)[:, :, None]  # (out, K, 1, kw)
        return [down, across]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        return [
            convolution(layer, layer.in_channels, rank[0], [True, False]),
            convolution(
                layer, rank[0], layer.out_channels, [False, True], bias=layer.bias is not None
            ),
        ]

    def product(self, factors: list[Tensor]) -> Tensor:
        down, across = factors
        return torch.einsum("kci,fkj->fcij", down[..., 0], across[:, :, 0])


def _matrix(weight: Tensor) -> Tensor:
    """(out, in, kh, kw) as (in * kh, out * kw)."""
    return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)

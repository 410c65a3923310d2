"""Products of two matrices: the nearest one, one from a sketch, or the one best for outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import CONVOLUTIONS, convolution, linear, sides_of
from tersor.factorize.matrices import best_pair, sketched_pair

SOLVERS = ("exact", "randomized", "activations")


@dataclass(frozen=True)
class Svd:
    """Two layers, W (out, in * kernel) ~ left (out, k) right (k, in * kernel).

    Args:
        solver: "exact"; "randomized", from a sketch, for large matrices; or "activations", which
            makes the error of the outputs least, E |W x - left right x|^2: the SVD of W L with
            L L^T = E x x^T, and right is multiplied by L^-1.
        oversampling, iterations: of "randomized".

    Raises:
        ConfigError: a setting is out of range.

    Source: Xue, Li and Gong 2013 (Interspeech); Halko, Martinsson and Tropp 2011; for
    "activations" the closed form of Yu and Wu 2023, arXiv 2309.00244.
    """

    solver: str = "exact"
    oversampling: int = 10
    iterations: int = 2

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver: {self.solver!r}; {did_you_mean(self.solver, SOLVERS)}")
        if self.oversampling < 0 or self.iterations < 0:
            raise ConfigError(
                f"oversampling {self.oversampling}, iterations {self.iterations}; "
                "expected 0 or more"
            )

    @property
    def needs_inputs(self) -> bool:
        return self.solver == "activations"

    def refuses(self, layer: nn.Module) -> str:
        return refuses_matrix(layer)

    def most(self, layer: Any) -> Rank:
        return (min(len(layer.weight), layer.weight[0].numel()),)

    def count(self, layer: Any, rank: Rank) -> int:
        return rank[0] * int(len(layer.weight) + layer.weight[0].numel())

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        matrix = weight.flatten(1)
        if moment is not None:
            matrix = matrix.double() @ _root(moment.double())[0]
        return [torch.linalg.svdvals(matrix)]

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return [weight.flatten(1)]

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        matrix = weight.flatten(1)
        if self.solver == "randomized":
            left, right = sketched_pair(
                matrix,
                rank[0],
                oversampling=self.oversampling,
                iterations=self.iterations,
                seed=seed,
            )
        elif moment is not None:
            root, inverse = _root(moment.double())
            left, right = best_pair(matrix.double() @ root, rank[0])
            left, right = left.to(weight.dtype), (right @ inverse).to(weight.dtype)
        else:
            left, right = best_pair(matrix, rank[0])
        sides = weight.shape[2:]
        return [right.view(rank[0], *weight.shape[1:]), left.view(*left.shape, *(1 for _ in sides))]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            first = linear(layer, layer.in_features, rank[0])
            return [first, linear(layer, rank[0], layer.out_features, bias=bias)]
        sides = sides_of(layer)
        return [
            convolution(layer, layer.in_channels, rank[0], [True] * sides),
            convolution(layer, rank[0], layer.out_channels, [False] * sides, bias=bias),
        ]

    def product(self, factors: list[Tensor]) -> Tensor:
        right, left = factors
        return (left.flatten(1) @ right.flatten(1)).view(len(left), *right.shape[1:])


def refuses_matrix(layer: nn.Module) -> str:
    """Why a layer is none whose weight is a matrix or a kernel, or ""."""
    if isinstance(layer, CONVOLUTIONS):
        return refuses_convolution(layer)
    if not isinstance(layer, nn.Linear):
        return f"takes linear and convolutional layers, this is {type(layer).__name__}"
    return ""


def refuses_convolution(layer: Any) -> str:
    """Why a layer is no convolution of one group, or ""."""
    if not isinstance(layer, CONVOLUTIONS):
        return f"takes convolutions, this is {type(layer).__name__}"
    if layer.groups > 1:
        return f"a convolution of {layer.groups} groups has as many smaller weights"
    return ""


def _root(moment: Tensor) -> tuple[Tensor, Tensor]:
    """L with L L^T = moment, and its inverse; directions that never come in count a little.

    The symmetric root by eigenvalues: a moment of few samples has no Cholesky factor.
    """
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=float(values[-1].clamp(min=1e-30)) * 1e-9)
    roots = values.sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T

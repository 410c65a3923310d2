"""Residual quantization: a subvector is a sum of centroids, each of what the others have left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.quantize.vector_codebook import (
    VectorCodebook,
    blocks_of,
    check_centroids,
    entry_weights,
    find_centroids,
)


@dataclass(frozen=True)
class Residual:
    """Each subvector of a row becomes a sum of one of k centroids of each stage.

    x ~ c_1 + c_2 + ..., where c_t is the centroid that is nearest to what is left before it.

    Args:
        stages: codebooks in turn, 1 or more; each takes log2(k) bits for a subvector.
        k, dimension, codebook, seed: as in `Product`, of each stage.

    Raises:
        ConfigError: a setting is out of range.

    Source: Juang and Gray 1982, multiple stage vector quantization of speech (ICASSP).

    >>> weight = torch.tensor([[0.0, 1.0, 10.0, 11.0]])
    >>> Residual(stages=2, k=2, dimension=1)(weight)
    tensor([[ 0.,  1., 10., 11.]])
    """

    stages: int = 2
    k: int = 256
    dimension: int | None = None
    codebook: str = "shared"
    seed: int = 0
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.stages, int) or isinstance(self.stages, bool) or self.stages < 1:
            raise ConfigError(f"stages: {self.stages!r}; expected 1 or more codebooks in turn")
        check_centroids(self.k, self.dimension, self.codebook)

    @property
    def bits(self) -> float:
        """Of the codes, for each of the entries of a subvector (8, if `dimension` is None)."""
        return self.stages * math.log2(self.k) / (self.dimension or 8)

    def bits_of(self, shape: torch.Size) -> float:
        """Bits of the codes of such a weight, for each entry."""
        count = blocks_of(shape, self.dimension).count
        return self.stages * math.log2(self.k) * count / max(shape.numel(), 1)

    def encode(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> VectorCodebook:
        """The codebooks for a weight; arguments as those of a call."""
        blocks = blocks_of(weight.shape, self.dimension)
        weights = entry_weights(weight, blocks, kept, importance)
        zeroed = weight if kept is None else torch.where(kept, weight, 0.0)
        left = blocks.split(zeroed.to(torch.promote_types(weight.dtype, torch.float32)))
        centroids: list[Tensor] = []
        codes: list[Tensor] = []
        for stage in range(self.stages):
            found, code = find_centroids(
                left, self.k, codebook=self.codebook, seed=self.seed + stage, weights=weights
            )
            centroids.append(found.to(weight.device, weight.dtype))
            codes.append(code.to(weight.device))
            book = VectorCodebook((centroids[-1],), codes[-1][None], blocks, None)
            left = left - blocks.split(book.decode().to(left.dtype))
        return VectorCodebook(tuple(centroids), torch.stack(codes), blocks, kept)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return self.encode(weight, kept, importance).decode()

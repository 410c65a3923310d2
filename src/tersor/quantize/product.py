"""Product quantization: the subvectors of a weight take a few values, found by k-means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tersor.quantize.vector_codebook import (
    VectorCodebook,
    blocks_of,
    check_centroids,
    entry_weights,
    find_centroids,
)


@dataclass(frozen=True)
class Product:
    """Each subvector of a row becomes one of k centroids.

    A code of log2(k) bits stands for `dimension` weights. The last subvector of a row is shorter if
    they do not divide it. No kept entry becomes zero.

    Args:
        k: centroids of a codebook, 2 to 65,536.
        dimension: entries of a subvector, in the order (in, *kernel). None: a kernel of a
            convolution (9 for 3 x 3), 4 of a pointwise one, 8 of all else.
        codebook: "shared" by all subvectors of a weight, or one for each "position" in a row.
        seed: of k-means++.

    Raises:
        ConfigError: a setting is out of range.

    Source: Jégou, Douze and Schmid 2011, IEEE TPAMI 33(1) (a codebook for each position); shared
    ones and the dimensions are those of Stock et al. 2020, arXiv 1907.05686, section 3. Importance
    weights the squared error of each entry, which then counts at least a millionth of the mean.

    >>> weight = torch.tensor([[1.0, 2.0, 5.0, 5.0], [1.0, 2.5, 5.5, 5.0]])
    >>> Product(k=2, dimension=2)(weight)
    tensor([[1.0000, 2.2500, 5.2500, 5.0000],
            [1.0000, 2.2500, 5.2500, 5.0000]])
    """

    k: int = 256
    dimension: int | None = None
    codebook: str = "shared"
    seed: int = 0
    uses_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_centroids(self.k, self.dimension, self.codebook)

    @property
    def bits(self) -> float:
        """Of a code, for each of the entries of a subvector (8, if `dimension` is None)."""
        return math.log2(self.k) / (self.dimension or 8)

    def bits_of(self, shape: torch.Size) -> float:
        """Bits of the codes of such a weight, for each entry."""
        return math.log2(self.k) * blocks_of(shape, self.dimension).count / max(shape.numel(), 1)

    def encode(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> VectorCodebook:
        """The codebook for a weight; arguments as those of a call."""
        blocks = blocks_of(weight.shape, self.dimension)
        weights = entry_weights(weight, blocks, kept, importance)
        vectors = blocks.split(weight if kept is None else torch.where(kept, weight, 0.0))
        centroids, codes = find_centroids(
            vectors, self.k, codebook=self.codebook, seed=self.seed, weights=weights
        )
        return packed(weight, centroids, codes, kept, self.dimension)

    def __call__(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> Tensor:
        return self.encode(weight, kept, importance).decode()


def packed(
    weight: Tensor, centroids: Tensor, codes: Tensor, kept: Tensor | None, dimension: int | None
) -> VectorCodebook:
    """A codebook of one stage in the weight's dtype, without a zero: what is zero is pruned."""
    found = centroids.to(weight.device, weight.dtype)
    tiny = torch.finfo(weight.dtype).tiny
    found = torch.where(found == 0, tiny, found)
    codes = codes.to(weight.device)
    return VectorCodebook((found,), codes[None], blocks_of(weight.shape, dimension), kept)

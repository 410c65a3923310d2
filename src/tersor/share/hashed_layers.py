"""Layers whose weight is looked up by a hash among a few numbers, the buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from tersor.share.buckets import bucket_count, fresh, take_buckets_, virtual_weight

# A hashed layer is the layer of torch but for its weight, which is no parameter but a property. So
# it computes, prints and is found by type as ever, and whoever holds it goes on holding it. While
# torch's constructor runs there are no buckets; the property fails, and torch's own weight is seen.


class HashedLinear(nn.Linear):
    """A linear layer whose `weight` is looked up among `ceil(n * density)` buckets.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        density: buckets / weights, 0 < density <= 1.
        seed: of the hash.
        even: every bucket has as many weights as any other, give or take one.

    Attributes:
        buckets: (K,), the parameter.
        hash_seed: int64, kept in the state dict.
        codes: (n,) int32, recomputed from the seed and not kept: it takes the memory of the dense
            weight, but no byte of a file.

    Source: Chen, Wilson, Tyree, Weinberger and Chen 2015, arXiv 1504.04788, eq. 3 to 7; SplitMix64
        instead of xxHash; `even` is ours.

    >>> layer = HashedLinear(100, 10, density=1 / 8)
    >>> layer.buckets.shape, layer.weight.shape, len(layer.weight.abs().unique()) <= 125
    (torch.Size([125]), torch.Size([10, 100]), True)
    """

    weight_kinds: ClassVar[dict[str, str]] = {"buckets": "hashed"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        density: float,
        *,
        bias: bool = True,
        seed: int = 0,
        even: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        take_buckets_(self, bucket_count(self.weight.numel(), density), seed, even, fresh)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_extra(self)}"

    if not TYPE_CHECKING:  # for the type checker it is the tensor that torch says it is
        weight = property(virtual_weight)


class HashedConv1d(nn.Conv1d):
    """A convolution over one dimension with a hashed weight; made by `hash_`."""

    weight_kinds: ClassVar[dict[str, str]] = {"buckets": "hashed"}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_extra(self)}"  # type: ignore[no-untyped-call]

    if not TYPE_CHECKING:
        weight = property(virtual_weight)


class HashedConv2d(nn.Conv2d):
    """A convolution over two dimensions with a hashed weight.

    Args:
        in_channels, out_channels, kernel_size, **options: as in `torch.nn.Conv2d`.
        density, seed, even: as in `HashedLinear`.

    Source: as `HashedLinear`; for convolutions hashed in space (the paper's successor, FreshNets,
        hashes their cosine transform).

    >>> HashedConv2d(16, 32, 3, density=1 / 16, padding=1).buckets.shape
    torch.Size([288])
    """

    weight_kinds: ClassVar[dict[str, str]] = {"buckets": "hashed"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        density: float,
        *,
        seed: int = 0,
        even: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        take_buckets_(self, bucket_count(self.weight.numel(), density), seed, even, fresh)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_extra(self)}"  # type: ignore[no-untyped-call]

    if not TYPE_CHECKING:
        weight = property(virtual_weight)


class HashedEmbedding(nn.Embedding):
    """An embedding with a hashed weight; the vector of `padding_idx` is hashed as the others.

    Args:
        num_embeddings, embedding_dim: as in `torch.nn.Embedding`.
        density, seed, even: as in `HashedLinear`.

    Source: as `HashedLinear`.

    >>> HashedEmbedding(1000, 16, density=1 / 20)(torch.tensor([3, 5])).shape
    torch.Size([2, 16])
    """

    weight_kinds: ClassVar[dict[str, str]] = {"buckets": "hashed"}

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        density: float,
        *,
        seed: int = 0,
        even: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, device=device, dtype=dtype)
        take_buckets_(self, bucket_count(self.weight.numel(), density), seed, even, fresh)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_extra(self)}"

    if not TYPE_CHECKING:
        weight = property(virtual_weight)


HASHED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: HashedLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: HashedLinear,  # of MultiheadAttention
    nn.Conv1d: HashedConv1d,
    nn.Conv2d: HashedConv2d,
    nn.Embedding: HashedEmbedding,
}
"""Which type of layer becomes which."""


def _extra(layer: Any) -> str:
    return f"buckets={len(layer.buckets)}"

"""An embedding as a narrow one and a linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tersor.factorize.factorizer import Rank
from tersor.factorize.layers import linear
from tersor.factorize.matrices import best_pair


@dataclass(frozen=True)
class EmbeddingSvd:
    """W (words, width) ~ table (words, k) map (k, width), the nearest product of rank k.

    A `padding_idx` stays that of the table: its row gets no gradient.

    Source: Lan et al. 2019, arXiv 1909.11942 (ALBERT), section 3.1; they train from scratch.
    """

    needs_inputs: ClassVar[bool] = False

    def refuses(self, layer: Any) -> str:
        if not isinstance(layer, nn.Embedding):
            return f"takes embeddings, this is {type(layer).__name__}"
        if layer.max_norm is not None:
            return "max_norm changes whole rows while they are read"
        return ""

    def most(self, layer: Any) -> Rank:
        return (min(layer.weight.shape),)

    def count(self, layer: Any, rank: Rank) -> int:
        return rank[0] * int(sum(layer.weight.shape))

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return [torch.linalg.svdvals(weight)]

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return [weight]

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        table, wide = best_pair(weight, rank[0])
        empty = (weight == 0).all(1)  # as that of padding is
        return [table.masked_fill(empty[:, None], 0), wide.T]

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        table = skip_init(
            nn.Embedding,
            layer.num_embeddings,
            rank[0],
            padding_idx=layer.padding_idx,
            scale_grad_by_freq=layer.scale_grad_by_freq,
            sparse=layer.sparse,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        nn.init.zeros_(table.weight)
        return [table, linear(layer, rank[0], layer.embedding_dim)]

    def product(self, factors: list[Tensor]) -> Tensor:
        table, wide = factors
        return table @ wide.T

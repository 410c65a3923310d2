"""Tensor trains: a large matrix as a product of small cores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.factorize.decomposing import tensor_train
from tersor.factorize.factorizer import Rank


def parted(size: int, parts: int) -> tuple[int, ...]:
    """A number as so many factors, as equal as its primes allow, descending.

    >>> parted(300, 3), parted(784, 2), parted(7, 3)
    ((10, 6, 5), (28, 28), (7, 1, 1))
    """
    primes, rest, prime = [], size, 2
    while rest > 1:
        while rest % prime == 0:
            primes.append(prime)
            rest //= prime
        prime += 1 if prime * prime <= rest else max(rest - prime, 1)
    found = [1] * parts
    for prime in reversed(primes):
        found[found.index(min(found))] *= prime
    return tuple(sorted(found, reverse=True))


class TensorTrainLinear(nn.Module):
    """A linear map y = W x + b by cores, W[i_1..i_d, j_1..j_d] = G_1[i_1, j_1] ... G_d[i_d, j_d].

    Shapes: (*, prod inputs) -> (*, prod outputs); cores (r_{k-1}, outputs_k, inputs_k, r_k).
    """

    def __init__(
        self, outputs: Sequence[int], inputs: Sequence[int], ranks: Sequence[int], bias: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = math.prod(inputs), math.prod(outputs)
        shapes = zip(ranks[:-1], outputs, inputs, ranks[1:], strict=True)
        self.cores = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, 1, self.in_features)  # (N, outputs done, r, inputs to do)
        for core in self.cores:
            rest = flat.unflatten(3, (core.shape[2], -1))
            flat = torch.einsum("bmrjn,rijs->bmisn", rest, core).flatten(1, 2)
        y = flat.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class TensorTrainEmbedding(nn.Module):
    """An embedding by cores, each row made when it is looked up.

    Shapes: (*) numbers below prod outputs -> (*, prod inputs).
    """

    def __init__(self, outputs: Sequence[int], inputs: Sequence[int], ranks: Sequence[int]) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = math.prod(outputs), math.prod(inputs)
        shapes = zip(ranks[:-1], outputs, inputs, ranks[1:], strict=True)
        self.cores = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

    def forward(self, numbers: Tensor) -> Tensor:
        flat, below = numbers.reshape(-1), self.num_embeddings
        row: Tensor | None = None
        for core in self.cores:
            below //= core.shape[1]
            digit = flat // below % core.shape[1]
            part = core[:, digit].permute(1, 0, 2, 3)  # (N, r, j, s)
            row = (
                part[:, 0]
                if row is None
                else torch.einsum("nar,nrjs->najs", row, part).flatten(1, 2)
            )
        assert row is not None  # there are two cores or more
        return row.reshape(*numbers.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


@dataclass(frozen=True)
class TensorTrain:
    """Cores of a linear layer or an embedding, from successive SVDs; one rank bounds them all.

    Args:
        parts: cores; the sides of the matrix are parted into as many factors, as equal as can be.

    Raises:
        ConfigError: fewer than 2 parts.

    Source: Oseledets 2011, SIAM J. Sci. Comput. 33(5); as a layer Novikov et al. 2015,
    arXiv 1509.06569.
    """

    parts: int = 3
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.parts, bool) or not isinstance(self.parts, int) or self.parts < 2:
            raise ConfigError(f"parts: {self.parts!r}; expected a whole number, 2 or more")

    def refuses(self, layer: Any) -> str:
        if not isinstance(layer, nn.Linear | nn.Embedding):
            return f"takes linear layers and embeddings, this is {type(layer).__name__}"
        if isinstance(layer, nn.Embedding) and (
            layer.padding_idx is not None or layer.max_norm is not None or layer.sparse
        ):
            return "an embedding with padding_idx, max_norm or sparse gradients is another thing"
        if max(sum(m > 1 for m in sides) for sides in self._sides(layer)) < 2:
            rows, columns = layer.weight.shape
            return f"neither {rows} nor {columns} is a product"
        return ""

    def most(self, layer: Any) -> Rank:
        return (max(self._ranks(layer, layer.weight.numel())),)

    def count(self, layer: Any, rank: Rank) -> int:
        ranks = self._ranks(layer, rank[0])
        sides = zip(*self._sides(layer), strict=True)
        return sum(a * m * n * b for a, (m, n), b in zip(ranks[:-1], sides, ranks[1:], strict=True))

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        return []

    def matrices(self, weight: Tensor) -> list[Tensor]:
        return []

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        outputs, inputs = (parted(side, self.parts) for side in weight.shape)
        return tensor_train(weight, outputs, inputs, rank[0])

    def build(self, layer: Any, rank: Rank) -> list[nn.Module]:
        outputs, inputs = self._sides(layer)
        ranks = self._ranks(layer, rank[0])
        made = (
            TensorTrainEmbedding(outputs, inputs, ranks)
            if isinstance(layer, nn.Embedding)
            else TensorTrainLinear(outputs, inputs, ranks, layer.bias is not None)
        )
        return [made.to(layer.weight)]

    def product(self, factors: list[Tensor]) -> Tensor:
        whole = factors[0][0]  # (outputs done, inputs done, r)
        for core in factors[1:]:
            whole = torch.einsum("mnr,rijs->minjs", whole, core).flatten(0, 1).flatten(1, 2)
        return whole[..., 0]

    def _sides(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows, columns = layer.weight.shape
        return parted(rows, self.parts), parted(columns, self.parts)

    def _ranks(self, layer: Any, rank: int) -> list[int]:
        """Of all cores, where none is larger than it can use."""
        sizes = [m * n for m, n in zip(*self._sides(layer), strict=True)]
        cuts = range(1, len(sizes))
        inner = [min(rank, math.prod(sizes[:c]), math.prod(sizes[c:])) for c in cuts]
        return [1, *inner, 1]

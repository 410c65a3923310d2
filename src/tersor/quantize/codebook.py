"""Few distinct values: those of a tensor, whatever made them, and which entry has which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.weights import Selectors, survey

MOST_VALUES = 4096
"""A tensor with more distinct values than these has no codebook."""

_SAMPLE = 1 << 16


@dataclass(frozen=True, eq=False)
class Codebook:
    """Values that the kept weights of a tensor share.

    Args:
        centroids: (k,) of the weight's dtype, none of them zero.
        codes: the weight's shape, int16 (or int32): the centroid of each kept weight, -1 where not
            kept.
    """

    centroids: Tensor
    codes: Tensor

    def decode(self) -> Tensor:
        """The weight: its centroid where kept, +0.0 elsewhere."""
        padded = torch.cat([self.centroids, self.centroids.new_zeros(1)])
        return padded[self.codes.long()]  # code -1 is the last entry, the zero


def codebooks_of(
    model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
) -> dict[str, Codebook]:
    """The codebook of each weight that has few distinct values (at most 4,096, zero not counted).

    Args:
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        By the weight's name; what a `CodebookTuner` takes. A weight with more values, or of zeros
        alone, is left out.

    Raises:
        ConfigError: a selector matches nothing.

    >>> model = nn.Linear(3, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.5, 0.0, 0.5]]))
    >>> book = codebooks_of(model)["weight"]
    >>> book.centroids.tolist(), book.codes.tolist()
    ([0.5], [[0, -1, 0]])
    """
    found = {}
    for weight in survey(model, select=select, ignore=ignore)[0]:
        values = weight.parameter.detach()
        kept = values != 0
        shared = distinct(values[kept], MOST_VALUES)
        if shared is None or not len(shared):
            continue
        codes = torch.full(values.shape, -1, dtype=torch.int16, device=values.device)
        codes[kept] = torch.searchsorted(shared, values[kept]).to(torch.int16)
        found[weight.name] = Codebook(shared, codes)
    return found


def distinct(values: Tensor, most: int) -> Tensor | None:
    """The distinct numbers among some, ascending; None if there are more than `most`.

    Quick where they are few: a sample is sorted, and then what it lacks.

    >>> distinct(torch.tensor([2.0, 1.0, 2.0]), 2), distinct(torch.tensor([2.0, 1.0, 0.0]), 2)
    (tensor([1., 2.]), None)
    """
    rest = values.detach().flatten().contiguous()
    known = rest[:0]
    while len(rest):
        known = torch.cat([known, rest[:_SAMPLE]]).unique()
        if len(known) > most:
            return None
        at = torch.searchsorted(known, rest).clamp_(max=len(known) - 1)
        rest = rest[known[at] != rest]
    return known

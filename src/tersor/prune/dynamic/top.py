"""The k highest of some of a tensor's numbers, exactly and fast where k is a small part of all.

`tersor.prune.selection` finds them in almost no memory; here it is time that counts, as masks are
moved thousands of times. What is surely too low is left out by a bound that a sample gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STRIDE = 16  # every so many numbers one is in the sample
_SAFE = 1.5  # so many times the numbers that are wanted are to pass the bound


def top(scores: Tensor, count: int, among: Tensor) -> Tensor:
    """True at the `count` highest scores of the places where `among` is True, ties by flat index.

    Args:
        scores: of any shape, no NaN.
        count: at most as many as are True in `among`.
        among: bool, of the same shape.

    >>> top(torch.tensor([9.0, 1.0, 3.0, 3.0]), 2, torch.tensor([False, True, True, True]))
    tensor([False, False,  True,  True])
    """
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    if count > 0:
        flat, allowed = scores.reshape(-1), among.reshape(-1)
        places = _passing(flat, count, allowed)
        values = flat[places]
        cut = values.kthvalue(len(values) - count + 1).values
        above = values > cut
        ties = (values == cut).nonzero().flatten()
        above[ties[: count - int(above.sum())]] = True
        chosen[places[above]] = True
    return chosen.view(scores.shape)


def _passing(flat: Tensor, count: int, allowed: Tensor) -> Tensor:
    """Indices, ascending, of some allowed numbers with the `count` highest among them."""
    sample = flat[::_STRIDE][allowed[::_STRIDE]]
    rank = int(_SAFE * count / _STRIDE) + 8
    if rank < len(sample):
        bound = sample.kthvalue(len(sample) - rank + 1).values
        places = ((flat >= bound) & allowed).nonzero().flatten()
        if len(places) >= count:
            return places
    return allowed.nonzero().flatten()

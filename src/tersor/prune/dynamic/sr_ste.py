"""N:M sparse networks trained from scratch: sparse-refined straight-through estimation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import Selectors
from tersor.prune.dynamic.sparse_view import SparseView
from tersor.prune.patterns import density_of, pattern_of
from tersor.prune.transform import resolve


def sr_ste(
    model: nn.Module,
    pattern: str = "2:4",
    *,
    decay: float = 2e-4,
    every: int = 1,
    select: Selectors = None,
    ignore: Selectors = None,
) -> SparseView:
    """Show the N largest of every M consecutive input weights, and train all of them.

    W <- W - lr * (g(W~) + decay * (1 - m) * W),   W~ = m * W

    g is the gradient at the sparse weights, given to the dense ones as it is (straight through).

    Args:
        pattern: "N:M"; groups lie along the input channels, for each output and kernel position,
            as in `prune_`. A layer whose number of inputs M does not divide stays dense.
        decay: lambda of the paper; with 0 it is the plain straight-through estimator.
        every: optimizer steps between two choices of the masks.

    Raises:
        ConfigError: an argument is out of range, or the pattern fits no layer.

    Source: Zhou et al. 2021, arXiv 2102.04010, eq. 7 and 8; theirs is for SGD. With an optimizer
    that scales gradients the second term is scaled, too.

    >>> net = nn.Linear(8, 2, bias=False)
    >>> method = sr_ste(net, "1:4")
    >>> with method.attach(torch.optim.SGD(net.parameters(), 0.1)):
    ...     (net.weight.view(2, 2, 4) != 0).sum(2).tolist()
    [[1, 1], [1, 1]]
    """
    if decay < 0:
        raise ConfigError(f"decay: {decay}; expected 0 or more")
    pattern_of(pattern)
    if density_of(pattern) is None:
        raise ConfigError(f"pattern: {pattern!r}; expected 'N:M', such as '2:4'")
    units, weights, _, skipped = resolve(model, None, pattern=pattern, select=select, ignore=ignore)
    groups = {unit.name: unit.at_most for unit in units if unit.at_most is not None}

    def choose(dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: highest_of_each(w.abs(), *groups[name]) for name, w in dense.items()}

    rest_decay = dict.fromkeys(groups, decay)
    return SparseView(model, weights, choose, every=every, rest_decay=rest_decay, skipped=skipped)


def highest_of_each(scores: Tensor, n: int, m: int, dim: int) -> Tensor:
    """True at the n highest of every m consecutive scores along a dimension, ties by position.

    >>> highest_of_each(torch.tensor([[1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 4.0]]), 2, 4, 1).int()
    tensor([[0, 1, 1, 0, 1, 1, 0, 0]], dtype=torch.int32)
    """
    last = scores.movedim(dim, -1)
    columns = last.reshape(-1, m).t().contiguous()  # (m, groups): a rank takes m vectors, no sort
    ranks = torch.zeros(columns.shape, dtype=torch.int16, device=scores.device)
    for place in range(1, m):
        # Of two, the one with the higher score comes first; of equals, the first.
        behind = columns[:place] >= columns[place]  # (place, groups)
        ranks[place] += behind.sum(0, dtype=torch.int16)
        ranks[:place] += ~behind
    return (ranks < n).t().reshape(last.shape).movedim(-1, dim).contiguous()

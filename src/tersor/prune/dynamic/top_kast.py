"""Top-KAST: the largest weights are seen, some more are trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation
from tersor.prune.dynamic.sparse_view import Choose, SparseView
from tersor.prune.dynamic.starting import starting_masks
from tersor.prune.selection import highest
from tersor.prune.transform import Density


def top_kast(
    model: nn.Module,
    density: Density | None = None,
    *,
    backward_density: float | None = None,
    every: int = 100,
    decay: float = 1e-4,
    masks: MaskSet | None = None,
    allocation: str | Allocation = "erk",
    seed: int = 0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> SparseView:
    """Show the largest |w| of each layer (A), train these and the next ones (B), leave the others.

    The gradient gets decay * w on A and decay / D * w on B without A, D the layer's density, so
    that a weight that is trained and not seen either grows for a reason or fades.

    Args:
        density: of A; with `allocation` it says how many of each layer are seen, as in `prune_`.
        backward_density: of B in all, each layer's part of A made larger by the same factor; twice
            the density of A without it.
        every: optimizer steps between two choices of A and B.
        decay: the coefficient of the penalty; the optimizer's own weight decay should be 0.
        masks: in place of a density; only how many of each layer they keep is looked at.

    Raises:
        ConfigError: an argument is out of range or unknown.

    Source: Jayakumar, Pascanu, Rae, Osindero and Elsen 2020, arXiv 2106.03517, sections 2.1 to
    2.3. Dense weights stand in memory here, so B saves computation on hardware that can use it,
    and no memory.

    >>> import torch
    >>> net = nn.Linear(10, 10, bias=False)
    >>> method = top_kast(net, 0.2, backward_density=0.5)
    >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
    >>> with method.attach(optimizer):
    ...     net(torch.ones(1, 10)).sum().backward()
    ...     optimizer.step()
    >>> int((net.weight != 0).sum()), method.trained.density
    (20, 0.5)
    """
    if decay < 0:
        raise ConfigError(f"decay: {decay}; expected 0 or more")
    weights, start, skipped = starting_masks(
        model, density, masks, allocation=allocation, seed=seed, select=select, ignore=ignore
    )
    factor = 2.0 if backward_density is None else backward_density / start.density
    if factor < 1 or (backward_density or 0) > 1:
        raise ConfigError(
            f"backward_density: {backward_density}; expected {start.density:.4g}, the density "
            "of the weights that are seen, to 1"
        )
    seen = {name: int(mask.sum()) for name, mask in start.items()}
    trained = {n: min(round(factor * k), start[n].numel()) for n, k in seen.items()}
    densities = {name: count / start[name].numel() for name, count in seen.items()}
    return SparseView(
        model,
        weights,
        _largest(seen),
        backward=_largest(trained),
        every=every,
        active_decay=dict.fromkeys(seen, decay),
        rest_decay={name: decay / share for name, share in densities.items()},
        skipped=skipped,
    )


def _largest(counts: Mapping[str, int]) -> Choose:
    def choose(dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: highest(weight.abs(), counts[name]) for name, weight in dense.items()}

    return choose

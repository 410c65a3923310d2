"""Which rank each layer gets: given, by energy, by a budget, or estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.factorize.factorizer import Factorizer, Rank
from tersor.factorize.matrices import check_rank, energy_rank, estimated_rank

ESTIMATE = "vbmf"


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that is to be factorized.

    Args:
        name: of its weight.
        layer: the module.
        factorizer: the method.
        moment: of its inputs, where the method needs it.
        recurrent: the layer stands in for a weight of a recurrent one.
    """

    name: str
    layer: Any
    factorizer: Factorizer
    moment: Tensor | None = None
    recurrent: bool = False

    @property
    def weight(self) -> Tensor:
        """The weight, in at least float32."""
        weight: Tensor = self.layer.weight.detach()
        return weight if weight.dtype == torch.float64 else weight.float()

    def count(self, rank: Rank) -> int:
        return self.factorizer.count(self.layer, rank)

    def scaled(self, share: float) -> Rank:
        """The largest rank times a share, at least 1."""
        return tuple(max(1, int(most * share)) for most in self.factorizer.most(self.layer))

    def within(self, weights: float) -> Rank:
        """The largest rank, its numbers in proportion, of at most so many weights; at least 1."""
        steps = max(self.factorizer.most(self.layer))
        low, high = 1, steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.count(self.scaled(middle / steps)) <= weights:
                low = middle
            else:
                high = middle - 1
        return self.scaled(low / steps)

    def checked(self, rank: object) -> Rank:
        """A given rank as a tuple; one number stands for all of them, each cut to its largest."""
        most = self.factorizer.most(self.layer)
        if isinstance(rank, int):
            check_rank(rank, max(most), f"{self.name!r}: rank")
            return tuple(min(rank, m) for m in most)
        if not isinstance(rank, Sequence) or len(rank) != len(most):
            raise ConfigError(
                f"{self.name!r}: rank {rank!r}; expected a number"
                + (f", or {len(most)} of them" if len(most) > 1 else "")
            )
        return tuple(
            check_rank(r, m, f"{self.name!r}: rank") for r, m in zip(rank, most, strict=True)
        )


def given(sites: Sequence[Site], ranks: Mapping[str, object]) -> dict[str, Rank]:
    """Ranks by the weight's name, checked."""
    return {site.name: site.checked(ranks[site.name]) for site in sites if site.name in ranks}


def by_energy(sites: Sequence[Site], energy: float, seed: int) -> dict[str, Rank]:
    """For each layer the least rank that leaves this share of the squared weights.

    Where a method has no singular values the rank is searched for, below that of as many weights
    as the layer has.
    """
    found = {}
    for site in sites:
        spectra = site.factorizer.spectra(site.weight, site.moment)
        if spectra:
            found[site.name] = tuple(energy_rank(s, energy) for s in spectra)
        else:
            found[site.name] = _searched(site, energy, seed)
    return found


def by_estimate(sites: Sequence[Site]) -> dict[str, Rank]:
    """For each layer the rank that stands out of the noise, see `estimated_rank`.

    Raises:
        ConfigError: the method is not one of matrices.
    """
    found = {}
    for site in sites:
        matrices = site.factorizer.matrices(site.weight)
        if not matrices:
            method = type(site.factorizer).__name__
            raise ConfigError(f"rank {ESTIMATE!r}: {method} has no matrices to look at")
        found[site.name] = tuple(estimated_rank(matrix) for matrix in matrices)
    return found


def by_budget(sites: Sequence[Site], budget: float) -> dict[str, Rank]:
    """Ranks with which all layers together have at most this share of their weights.

    With one series of singular values a layer, those are taken first that give the most of the
    layer's energy for a weight; that is the best choice up to the last one that does not fit. A
    layer that would have as many weights as without factors gets its largest rank, and stays.
    With other methods every layer gets its share.

    Raises:
        ConfigError: rank 1 everywhere is more.
    """
    total = sum(site.weight.numel() for site in sites)
    spectra = [site.factorizer.spectra(site.weight, site.moment) for site in sites]
    least = sum(site.count(site.scaled(0)) for site in sites)
    if least > budget * total:
        raise ConfigError(
            f"budget: {budget} of {total:,} weights; rank 1 everywhere has {least:,}, so expected "
            f"{least / total:.4f} or more"
        )
    if any(len(series) != 1 for series in spectra):
        return {site.name: site.within(budget * site.weight.numel()) for site in sites}
    gains = []
    for index, (site, (series,)) in enumerate(zip(sites, spectra, strict=True)):
        squares = series.double().square()
        squares = squares / squares.sum().clamp(min=1e-300)
        cost = site.count((1,))
        gains += [(-float(g) / cost, index) for g in squares[1:]]
    ranks, spent = [1] * len(sites), least
    closed: set[int] = set()
    for _, index in sorted(gains):
        cost, size = sites[index].count((1,)), sites[index].weight.numel()
        now = ranks[index] * cost
        dense = now + cost >= size  # the layer itself has no more weights, and no error
        if index in closed or spent + (size - now if dense else cost) > budget * total:
            closed.add(index)
            continue
        ranks[index] = (
            sites[index].factorizer.most(sites[index].layer)[0] if dense else ranks[index] + 1
        )
        if dense:
            closed.add(index)
        spent += size - now if dense else cost
    return {site.name: (rank,) for site, rank in zip(sites, ranks, strict=True)}


def _searched(site: Site, energy: float, seed: int) -> Rank:
    """The least rank in proportion that reaches the energy, by halving."""
    weight, steps = site.weight, max(site.factorizer.most(site.layer))
    most = max(site.within(weight.numel()))
    allowed = (1 - energy) * float(weight.double().square().sum())
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        rank = site.scaled(middle / steps)
        factors = site.factorizer.split(weight, rank, site.moment, seed)
        error = site.factorizer.product(factors) - weight
        if float(error.double().square().sum()) <= allowed:
            high = middle
        else:
            low = middle + 1
    return site.scaled(low / steps)

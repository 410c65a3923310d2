"""Masks as the bits of a search: which groups of weights a network can do without."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.weights import Selectors
from tersor.prune.patterns import Pattern
from tersor.prune.sensitivity import Evaluate, pruned
from tersor.prune.transform import resolve


class MaskEnvironment:
    """A network in which each bit keeps or removes one group of weights.

    Args:
        model: as it was after every call, bit by bit.
        evaluate: the error or the loss of a model: lower = better.
        price: what keeping all groups costs, in units of `evaluate`: the pressure to be sparse.
        pattern, select, ignore: what the groups are, as in `prune_`; "row" makes units of a layer.

    Source: Whitley, Starkweather and Bogart 1990, section 4, with a price for their reward of
    sparse networks. They train each network before it is judged; this one does not.
    """

    def __init__(
        self,
        model: nn.Module,
        evaluate: Evaluate,
        *,
        price: float,
        pattern: str | Pattern = "row",
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        self._units, _, _, _ = resolve(model, 1.0, pattern=pattern, select=select, ignore=ignore)
        self._model, self._evaluate, self._price = model, evaluate, price
        ends = itertools.accumulate(unit.count for unit in self._units)
        self._spans = [(end - u.count, end) for end, u in zip(ends, self._units, strict=True)]

    @property
    def length(self) -> int:
        """Groups: so many bits are asked for."""
        return self._spans[-1][1]

    def masks(self, bits: Tensor) -> MaskSet:
        """The masks that some bits, (length,), stand for.

        Raises:
            ConfigError: there are not as many bits as groups.
        """
        if bits.shape != (self.length,):
            raise ConfigError(
                f"MaskEnvironment: bits of shape {tuple(bits.shape)}; expected ({self.length},)"
            )
        masks: dict[str, Tensor] = {}
        for unit, (begin, end) in zip(self._units, self._spans, strict=True):
            masks |= unit.spread(bits[begin:end])
        return MaskSet(masks)

    def fitness(self, bits: Tensor) -> float:
        """-evaluate(pruned model) - price * share of groups that are kept."""
        with pruned(self._model, self.masks(bits)):
            loss = float(self._evaluate(self._model))
        return -loss - self._price * float(bits.double().mean())

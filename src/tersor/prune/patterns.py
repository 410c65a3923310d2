"""What is removed together: element, N:M, block, kernel, row, channel, head or layer.

A pattern parts the entries of a weight into groups of one size. The score of a group is the mean
over its entries, so a criterion that gives a whole group one value is taken at its word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.weights import Weight
from tersor.prune.scoring import Scores


@dataclass(frozen=True)
class Part:
    """How the entries of one weight fall into groups.

    Args:
        shape: of the weight.
        split: the weight's shape with some sides written as products, in C order.
        grouped: dimensions of `split` that number the groups; along the others lie the entries of
            a group. A row of a (3, 4) weight: `split` (3, 4), `grouped` (0,).
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    grouped: tuple[int, ...]

    @property
    def count(self) -> int:
        """Groups."""
        return math.prod(self.split[i] for i in self.grouped)

    @property
    def size(self) -> int:
        """Entries of a group."""
        return math.prod(self.split[i] for i in self._within)

    def gather(self, scores: Tensor) -> Tensor:
        """The mean score of each group, (count,)."""
        parted = scores.reshape(self.split)
        return (parted.mean(dim=self._within) if self._within else parted).reshape(-1)

    def any(self, mask: Tensor) -> Tensor:
        """Whether anything of each group is kept, (count,)."""
        parted = mask.reshape(self.split)
        return (parted.any(dim=self._within) if self._within else parted).reshape(-1)

    @property
    def _within(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.split)) if i not in self.grouped)

    def spread(self, kept: Tensor) -> Tensor:
        """A value for each group (count,) as one for each entry, in the weight's shape."""
        sides = [n if i in self.grouped else 1 for i, n in enumerate(self.split)]
        return kept.reshape(sides).expand(self.split).reshape(self.shape)


@dataclass(frozen=True)
class Unit:
    """What is ranked together: one weight, or several whose groups are kept or removed as one.

    Args:
        name: of the weight, or of the module.
        parts: weight name to how its entries fall into groups; the same number of groups in each.
        at_most: (n, m, dimension) where of m consecutive entries along a dimension of the weight
            only the n highest may be kept at all.
    """

    name: str
    parts: Mapping[str, Part]
    at_most: tuple[int, int, int] | None = None

    @property
    def count(self) -> int:
        """Groups."""
        return next(iter(self.parts.values())).count

    @property
    def size(self) -> int:
        """Weights of a group."""
        return sum(part.size for part in self.parts.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first weight."""
        return next(iter(self.parts.values())).shape

    def gather(self, scores: Scores, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """The score of each group, 1-D: the mean over its entries; -inf: it cannot be kept.

        Args:
            scores: of each weight.
            masks: groups of which nothing is kept now cannot be kept later.
        """
        sums, live = [], []
        for name, part in self.parts.items():
            score = scores[name]
            if self.at_most is not None:
                mask = None if masks is None else masks[name].to(score.device)
                score = _only_highest(score, mask, *self.at_most)
            sums.append(part.gather(score))
            if masks is not None:
                live.append(part.any(masks[name].to(score.device)))
        sizes = [part.size for part in self.parts.values()]
        if len(sums) == 1:
            gathered = sums[0]
        else:
            shares = [s * (n / self.size) for s, n in zip(sums, sizes, strict=True)]
            gathered = torch.stack(shares).sum(dim=0)
        if live:
            alive = live[0] if len(live) == 1 else torch.stack(live).any(dim=0)
            gathered = torch.where(alive, gathered, -torch.inf)
        return gathered

    def spread(self, kept: Tensor) -> dict[str, Tensor]:
        """The masks of the weights, from one truth value a group."""
        return {name: part.spread(kept) for name, part in self.parts.items()}


Layout = tuple[list[Unit], dict[str, str]]
"""What is ranked, and for each weight that the pattern does not fit the reason."""

Pattern = Callable[[list[Weight]], Layout]


def element(weights: list[Weight]) -> Layout:
    """Each weight for itself.

    >>> [unit], _ = element([_example((2, 3))])
    >>> unit.gather({"w": torch.arange(6.0).view(2, 3)}).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    return _each(weights, lambda w: _along(w, *_all(w)))


def row(weights: list[Weight]) -> Layout:
    """All weights of one output: a unit, a filter, an embedding, a gate's row.

    >>> [unit], _ = row([_example((2, 3))])
    >>> unit.gather({"w": torch.arange(6.0).view(2, 3)}).tolist()
    [1.0, 4.0]
    """
    return _each(weights, lambda w: _along(w, _out(w)))


def channel(weights: list[Weight]) -> Layout:
    """All weights of one input: a column of a matrix, an input map of a convolution.

    >>> [unit], _ = channel([_example((2, 3))])
    >>> unit.gather({"w": torch.arange(6.0).view(2, 3)}).tolist()
    [1.5, 2.5, 3.5]
    """
    return _each(weights, lambda w: _ungrouped(w) or _along(w, 1 - _out(w)))


def kernel(weights: list[Weight]) -> Layout:
    """The kernel of one output and one input channel; convolutions alone.

    Source: Mao et al. 2017, arXiv 1705.08922, section 3.
    """
    return _each(weights, lambda w: _along(w, 0, 1) if len(w.shape) > 2 else "has no kernels")


def layer(weights: list[Weight]) -> Layout:
    """A whole weight, for networks in which something goes round it."""
    return _each(weights, _along)


def head(weights: list[Weight]) -> Layout:
    """A head of `nn.MultiheadAttention`: its rows of query, key and value, its columns of the
    output projection, kept or removed as one.

    Source: Michel, Levy and Neubig 2019, arXiv 1905.10650.
    """
    units: dict[str, dict[str, Part]] = {}
    heads: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for weight in weights:
        if isinstance(weight.module, nn.MultiheadAttention):
            heads[weight.name.rpartition(".")[0]] = weight.module.num_heads
    for weight in weights:
        above, _, own = weight.name.rpartition(".")
        if isinstance(weight.module, nn.MultiheadAttention):
            count, shape = heads[above], tuple(weight.shape)
            blocks = 3 if own == "in_proj_weight" else 1
            split = (blocks, count, shape[0] // blocks // count, shape[1])
            units.setdefault(above, {})[weight.name] = Part(shape, split, (1,))
        elif above.rpartition(".")[2] == "out_proj" and above.rpartition(".")[0] in heads:
            above = above.rpartition(".")[0]
            out, inputs = weight.shape
            part = Part((out, inputs), (out, heads[above], inputs // heads[above]), (1,))
            units.setdefault(above, {})[weight.name] = part
        else:
            skipped[weight.name] = "no weight of nn.MultiheadAttention, so without heads"
    return [Unit(f"{name or 'attention'} (heads)", parts) for name, parts in units.items()], skipped


def block(height: int, width: int) -> Pattern:
    """Blocks of `height` outputs x `width` inputs, at each place of a kernel.

    Source: Narang, Undersander and Diamos 2017, arXiv 1711.02782, section 3.

    >>> [unit], _ = block(2, 2)([_example((2, 4))])
    >>> unit.gather({"w": torch.arange(8.0).view(2, 4)}).tolist()
    [2.5, 4.5]
    """

    def parts(weight: Weight) -> Part | str:
        first, second, *places = weight.shape
        tall, wide = (height, width) if _out(weight) == 0 else (width, height)
        if first % tall or second % wide:
            return f"{first}x{second} is not made of {tall}x{wide} blocks"
        split = (first // tall, tall, second // wide, wide, *places)
        return Part(tuple(weight.shape), split, (0, 2, *range(4, len(split))))

    return lambda weights: _each(weights, parts)


def n_of_m(n: int, m: int) -> Pattern:
    """Of every `m` consecutive inputs at most the `n` highest, also where the density allows more.

    The groups of m lie along the input channels: of a kernel, at each of its places. At density
    n / m exactly n of each m are kept, in every layer; below it fewer.

    Source: Zhou et al. 2021, arXiv 2102.04010 (N:M sparsity); Mishra et al. 2021, arXiv 2104.08378.

    >>> [unit], _ = n_of_m(1, 2)([_example((1, 4))])
    >>> unit.gather({"w": torch.tensor([[1.0, 2.0, 9.0, 8.0]])}).tolist()
    [-inf, 2.0, 9.0, -inf]
    """

    def units(weight: Weight) -> Unit | str:
        inputs = 1 - _out(weight)
        if weight.shape[inputs] % m:
            return f"its {weight.shape[inputs]} inputs are no multiple of {m}"
        return Unit(weight.name, {weight.name: _along(weight, *_all(weight))}, (n, m, inputs))

    return lambda weights: _sorted_out((weight, units(weight)) for weight in weights)


PATTERNS: dict[str, Pattern] = {f.__name__: f for f in (element, row, channel, kernel, head, layer)}
"""Patterns by name; `pattern_of` also reads "2:4" and "4x1"."""


def pattern_of(choice: str | Pattern) -> Pattern:
    """A pattern by name: a key of `PATTERNS`, "N:M" (N of M inputs) or "HxW" (a block).

    Raises:
        ConfigError: there is no such pattern.
    """
    if not isinstance(choice, str):
        return choice
    if choice in PATTERNS:
        return PATTERNS[choice]
    if found := re.fullmatch(r"(\d+)([:x])(\d+)", choice):
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and 0 < first < second:
            return n_of_m(first, second)
        if found[2] == "x" and min(first, second) > 0:
            return block(first, second)
    known = [*PATTERNS, "N:M (2:4: of 4 inputs 2 are kept)", "HxW (4x1: 4 outputs by 1 input)"]
    raise ConfigError(f"pattern {choice!r}: {did_you_mean(choice, known)}")


def density_of(choice: str | Pattern) -> float | None:
    """The density that a pattern itself asks for: N / M of "N:M", of others none."""
    if isinstance(choice, str) and (found := re.fullmatch(r"(\d+):(\d+)", choice)):
        return int(found[1]) / int(found[2])
    return None


def _each(weights: list[Weight], parts: Callable[[Weight], Part | str]) -> Layout:
    found = ((w, parts(w)) for w in weights)
    return _sorted_out((w, _unit(w, p) if isinstance(p, Part) else p) for w, p in found)


def _sorted_out(found: Iterable[tuple[Weight, Unit | str]]) -> Layout:
    units: list[Unit] = []
    skipped: dict[str, str] = {}
    for weight, unit in found:
        if isinstance(unit, str):
            skipped[weight.name] = unit
        else:
            units.append(unit)
    return units, skipped


def _unit(weight: Weight, part: Part) -> Unit:
    return Unit(weight.name, {weight.name: part})


def _along(weight: Weight, *grouped: int) -> Part:
    return Part(tuple(weight.shape), tuple(weight.shape), grouped)


def _all(weight: Weight) -> tuple[int, ...]:
    return tuple(range(len(weight.shape)))


def _out(weight: Weight) -> int:
    """The dimension of the outputs; Hugging Face's Conv1D and transposed convolutions have 1."""
    turned = weight.kind == "conv_transposed" or type(weight.module).__name__ == "Conv1D"
    return 1 if turned else 0


def _ungrouped(weight: Weight) -> str:
    groups = getattr(weight.module, "groups", 1)
    return "" if groups == 1 else f"its inputs are split among {groups} groups"


def _only_highest(scores: Tensor, mask: Tensor | None, n: int, m: int, dim: int) -> Tensor:
    """-inf for all but the n highest live ones of every m consecutive scores along `dim`."""
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    last = scores.movedim(dim, -1)
    groups = last.reshape(-1, m)
    best = groups.sort(dim=1, descending=True, stable=True).indices[:, :n]
    only = torch.full_like(groups, -torch.inf).scatter_(1, best, groups.gather(1, best))
    return only.view(last.shape).movedim(-1, dim)


def _example(shape: tuple[int, ...]) -> Weight:
    return Weight("w", "linear", nn.Parameter(torch.zeros(shape)), nn.Linear(1, 1))

"""Optimal brain surgeon: second order with the curvature between the weights of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.tables import look_up
from tersor.core.units import as_units, from_units
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.curvature import CURVATURES, Vectors
from tersor.prune.criteria.entries import precise, refusing
from tersor.prune.criteria.surgeon import inverse_diagonal, losses
from tersor.prune.scoring import Scores, ScoringData

BLOCK_LIMIT = 4096
"""Weights in a block: its curvature has as many rows and columns, 128 MiB."""

VECTOR_LIMIT = 2**28
"""Numbers in all curvature vectors together, 1 GiB: samples * outputs * weights."""

_TOGETHER = 1 << 23  # numbers of curvature that stand in memory together


def obs(
    model: nn.Module,
    data: ScoringData,
    *,
    damping: float = 1e-6,
    block: str = "row",
    curvature: str = "gauss_newton",
) -> Scores:
    """Optimal brain surgeon: L_q = w_q**2 / (2 [H^-1]_qq), H the damped curvature of a block.

    It is what the loss rises by if w_q goes and the rest of its block makes up for it, which the
    repair `obs` does. Blocks do not know of each other.

    Args:
        damping: H = damping I + mean over samples of v v^T; 1e-8 to 1e-4 in the paper. Scores of
            weights without curvature are damping w**2 / 2.
        block: `row`, the weights of one unit; or `weight`, the whole tensor. At most 4,096
            weights.
        curvature: where v comes from, `gauss_newton` (one for each sample and output) or `fisher`
            (one for each sample). At most 2**28 numbers in all of them.

    Raises:
        ConfigError: there is no data, an argument is unknown, there are too many vectors; or, when
            it is asked for, a weight has too large blocks.

    Source: Hassibi and Stork 1993, NIPS 5, eq. 5 and 9, with H the Gauss-Newton matrix as there;
    by blocks as in Hassibi, Stork and Wolff 1994, NIPS 6.
    """
    blocks = Blocks(model, data, damping, block, curvature, criterion="obs")
    scores = {w.name: _scores(blocks, w) for w in blocks.weights}
    return refusing("obs", scores, blocks.refused)


def _scores(blocks: Blocks, weight: Weight) -> Tensor:
    parts = []
    for values, vectors in blocks.of(weight):
        parts.append(losses(values, inverse_diagonal(vectors, blocks.samples, blocks.damping)))
    return blocks.back(weight, torch.cat(parts))


@dataclass
class Blocks:
    """The blocks of all weights of a model with their curvature vectors.

    Args:
        model, data, damping, block, curvature: as in `obs`.
        criterion: for messages.
    """

    model: nn.Module
    data: ScoringData
    damping: float
    block: str
    curvature: str
    criterion: str

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ConfigError(f"obs: damping {self.damping}; expected a number above 0")
        whole = look_up("obs: block", self.block, {"row": False, "weight": True})
        source = look_up("obs: curvature", self.curvature, CURVATURES)
        everything = prunable(self.model)
        sizes = {
            w.name: w.shape.numel() if whole else as_units(w, w.parameter.detach()).shape[1]
            for w in everything
        }
        self.refused = {
            name: f"its blocks have {size:,} weights, at most {BLOCK_LIMIT:,} can be inverted"
            for name, size in sizes.items()
            if size > BLOCK_LIMIT
        }
        self.weights = [w for w in everything if w.name not in self.refused]
        self._sizes = sizes
        self._collect(source(self.model, self.weights, self.data, self.criterion))

    def of(self, weight: Weight) -> Iterator[tuple[Tensor, Tensor]]:
        """Some blocks at a time: values (blocks, n) and vectors (blocks, vectors, n)."""
        size = self._sizes[weight.name]
        values = as_units(weight, weight.parameter.detach()).reshape(-1, size)
        vectors = self._vectors[weight.name].view(-1, len(values), size)
        count = max(_TOGETHER // max(size * max(size, len(vectors)), 1), 1)
        for begin in range(0, len(values), count):
            part = slice(begin, begin + count)
            yield values[part], vectors[:, part].transpose(0, 1)

    def back(self, weight: Weight, values: Tensor) -> Tensor:
        """Values of all blocks, (blocks, n), in the weight's shape."""
        units = as_units(weight, weight.parameter.detach())
        return from_units(weight, values.reshape(units.shape)).to(precise(weight.parameter).dtype)

    def _collect(self, samples: Vectors) -> None:
        """All vectors, by weight, by unit: (vectors, weights of the tensor)."""
        found: dict[str, list[Tensor]] = {w.name: [] for w in self.weights}
        self.samples = numbers = 0
        with contextlib.closing(samples):  # an error here must not leave its hold on the model
            for vectors in samples:
                self.samples += 1
                for vector in vectors:
                    numbers += sum(part.numel() for part in vector)
                    if numbers > VECTOR_LIMIT:
                        raise ConfigError(
                            f"criterion {self.criterion!r}: the curvature vectors of sample "
                            f"{self.samples} bring them to {numbers:,} numbers, at most "
                            f"{VECTOR_LIMIT:,} are held. Give fewer samples or curvature='fisher', "
                            "or take 'layerwise_obs'"
                        )
                    for weight, part in zip(self.weights, vector, strict=True):
                        found[weight.name].append(as_units(weight, part).flatten())
        self._vectors = {
            w.name: torch.stack(found[w.name])
            if found[w.name]
            else precise(w.parameter.detach()).new_zeros(0, w.shape.numel())
            for w in self.weights
        }

"""What the weights that are kept can make up for, once it is known which ones go.

A repair is called with the model as it was before pruning, and with the masks. It sets what is not
kept to zero and changes the rest so that the loss, or the output of each layer, changes least.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.units import as_units, from_units
from tersor.core.weights import Weight, prunable
from tersor.prune.criteria.layerwise_obs import input_moments
from tersor.prune.criteria.obs import Blocks
from tersor.prune.criteria.surgeon import repaired, repaired_by_vectors
from tersor.prune.scoring import ScoringData

Repair = Callable[[nn.Module, MaskSet, ScoringData], None]


def obs(
    model: nn.Module,
    masks: MaskSet,
    data: ScoringData,
    *,
    damping: float = 1e-6,
    block: str = "row",
    curvature: str = "gauss_newton",
) -> None:
    """The joint update of the optimal brain surgeon in each block, in place.

    d = -H^-1 E (E^T H^-1 E)^-1 w_q, E the unit vectors of all weights of the block that go

    Args:
        model: with the weights as they were before pruning.
        masks: what is kept.
        data, damping, block, curvature: as in the criterion `obs`; give both the same.

    Raises:
        ConfigError: as the criterion, for a weight with a mask that takes some of it away.

    Source: Hassibi and Stork 1993, NIPS 5, eq. 5, for several weights at once.
    """
    weights = _pruned(model, masks)
    blocks = Blocks(model, data, damping, block, curvature, criterion="obs")
    for weight in weights:
        _require(weight, blocks.refused, "obs")
        kept = as_units(weight, masks[weight.name].to(weight.parameter.device))
        parts = []
        begin = 0
        for values, vectors in blocks.of(weight):
            keeps = kept.reshape(-1, values.shape[1])[begin : begin + len(values)]
            begin += len(values)
            for each in zip(values, keeps, vectors, strict=True):
                parts.append(repaired_by_vectors(*each, blocks.samples, damping))
        weight.parameter.detach().copy_(blocks.back(weight, torch.stack(parts)))


def layerwise_obs(
    model: nn.Module, masks: MaskSet, data: ScoringData, *, damping: float = 0.01
) -> None:
    """Each row's least-squares fit of its former outputs by the inputs that are left, in place.

    w'_S = H_SS^-1 H_S: w, S what the row keeps, H the damped second moments of the layer's inputs

    The inputs are those of the model before pruning, for all layers. The outputs are never further
    off on this data than when the weights that go are set to zero and nothing else is done.

    Args:
        model: with the weights as they were before pruning.
        masks: what is kept.
        data, damping: as in the criterion `layerwise_obs`.

    Raises:
        ConfigError: as the criterion, for a weight with a mask that takes some of it away.

    Source: Dong, Chen and Pan 2017, arXiv 1705.07565, eq. 5, for all weights of a row at once.
    """
    weights = _pruned(model, masks)
    moments, refused = input_moments(model, weights, data, damping, "layerwise_obs")
    for weight in weights:
        _require(weight, refused, "layerwise_obs")
        units = as_units(weight, weight.parameter.detach())
        kept = as_units(weight, masks[weight.name].to(units.device))
        each = len(units) // len(moments[weight.name])  # rows of a group
        rows = [
            repaired(row, keep, moments[weight.name][index // each])
            for index, (row, keep) in enumerate(zip(units, kept, strict=True))
        ]
        weight.parameter.detach().copy_(from_units(weight, torch.stack(rows)))


REPAIRS: dict[str, Repair] = {f.__name__: f for f in (obs, layerwise_obs)}


def _pruned(model: nn.Module, masks: MaskSet) -> list[Weight]:
    """The weights of which some entries go."""
    weights = {w.name: w for w in prunable(model)}
    for name in masks:
        if name not in weights:
            raise ConfigError(f"mask {name!r}: {type(model).__name__} has no such weight")
    return [weights[name] for name, mask in masks.items() if not mask.all()]


def _require(weight: Weight, refused: dict[str, str], repair: str) -> None:
    if weight.name in refused:
        raise ConfigError(
            f"repair {repair!r} cannot change {weight.name!r}: {refused[weight.name]}. "
            f"Leave it out, ignore=[{weight.name!r}], or take another repair"
        )

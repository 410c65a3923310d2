"""What makes weights small or zero when it is added to the loss: `model -> scalar`.

Each is a plain sum, so what the papers call lambda or epsilon stands before it where it is used:
`loss + 1e-4 * l1(model)`, or `Penalized(model, l1, 1e-4)` beside any loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersor.core.errors import ConfigError
from tersor.core.weights import Selectors, prunable
from tersor.prune.learned.groups import grouped
from tersor.prune.patterns import Pattern

Penalty = Callable[[nn.Module], Tensor]
"""A model to a scalar, 0 or more, that can be differentiated by the model's parameters."""


def l1(model: nn.Module, *, select: Selectors = None, ignore: Selectors = None) -> Tensor:
    """sum(|w|): pulls every weight towards zero with the same force.

    By its gradient no weight becomes exactly zero; `Proximal(prox="l1")` does that.

    Args:
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.constant_(layer.weight, -3.0)
    >>> l1(layer).item()
    6.0
    """
    return _total(w.parameter.abs() for w in prunable(model, select=select, ignore=ignore))


def weight_decay(model: nn.Module, *, select: Selectors = None, ignore: Selectors = None) -> Tensor:
    """sum(w**2) / 2: pulls every weight towards zero in proportion to its size.

    With SGD it is the optimizer's own `weight_decay`; with Adam it is not, as the gradient of the
    penalty is divided by the second moment, and that of AdamW's decay is not.

    Args: as `l1`.

    Source: the pressure before magnitude pruning, Reed 1993, Pruning algorithms: a survey.
    """
    return _total(w.parameter.square() for w in prunable(model, select=select, ignore=ignore)) / 2


def weight_elimination(
    model: nn.Module,
    *,
    scale: float = 1.0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Tensor:
    """sum(r / (1 + r)) / 2, r = (w / scale)**2: counts large weights, decays small ones.

    The pull is steepest at |w| = scale / sqrt(3) and vanishes for large weights.

    Args:
        scale: above it a weight counts as large; w_0 of the paper, more than 0.
        select, ignore: as in `l1`.

    Raises:
        ConfigError: the scale is not positive.

    Source: Weigend, Rumelhart and Huberman 1991, Generalization by weight-elimination.
    """
    if not scale > 0:
        raise ConfigError(f"scale: {scale}; expected more than 0, the size of a large weight")
    found = prunable(model, select=select, ignore=ignore)
    # r / (1 + r) as 1 - 1 / (1 + r) loses small weights to rounding; so not that.
    squares = [(w.parameter / scale).square() for w in found]
    return _total(r / (1 + r) for r in squares) / 2


def elimination_and_decay(
    model: nn.Module,
    *,
    elimination: float = 1.0,
    decay: float = 1e-5,
    beta: float = 1.0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Tensor:
    """elimination * sum(b w**2 / (1 + b w**2)) + decay * sum(w**2), b = `beta`.

    The sum of the two with the factors of the paper, so without their halves.

    Raises:
        ConfigError: beta is not positive.

    Source: Weigend, Rumelhart and Huberman 1991, in the form with two constants.
    """
    if not beta > 0:
        raise ConfigError(f"beta: {beta}; expected more than 0, 1 / scale**2")
    chosen = {"select": select, "ignore": ignore}
    large = weight_elimination(model, scale=1 / math.sqrt(beta), **chosen)
    return 2 * elimination * large + 2 * decay * weight_decay(model, **chosen)


def group_lasso(
    model: nn.Module,
    *,
    pattern: str | Pattern = "row",
    select: Selectors = None,
    ignore: Selectors = None,
) -> Tensor:
    """sum over groups of sqrt(size of the group) * ||w_group||_2: whole groups become small.

    With groups of one weight it is `l1`. By its gradient, 0 for a group of zeros, no group
    becomes exactly zero; `Proximal(prox="group_lasso")` does that.

    Args:
        pattern: what a group is: "row", "channel", "kernel", "layer", "4x1" or a function; weights
            that it does not fit take no part.
        select, ignore: as in `l1`.

    Raises:
        ConfigError: the pattern is unknown, or fits no weight.

    Source: Yuan and Lin 2006, eq. 2.1, with their sqrt(p_j); Lebedev and Lempitsky 2016, arXiv
        1506.02515, eq. 4, where the pattern is `position` and all groups are of one size.

    >>> layer = nn.Linear(4, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0, 4, 0], [0, 0, 0, 0]]))
    >>> group_lasso(layer, pattern="row").item()
    10.0
    """
    found, _ = grouped(prunable(model, select=select, ignore=ignore), pattern)
    return _total(math.sqrt(part.size) * part.norms() for part in found)


def structured_sparsity(
    model: nn.Module,
    *,
    rows: float = 1.0,
    channels: float = 1.0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Tensor:
    """rows * sum(||w_row||_2) + channels * sum(||w_channel||_2): filters and channels together.

    Each weight lies in one row and one channel, so both pull at it. Filter n of a layer and channel
    n of the next one make one unit; where either is zero, the other is of no use.

    Args:
        rows, channels: lambda_n and lambda_c of the paper.
        select, ignore: as in `l1`.

    Source: Wen, Wu, Wang, Chen and Li 2016, arXiv 1608.03665, eq. 2. As there, and unlike
        `group_lasso`, without sqrt(size). Their filter shapes are the pattern `position`, their
        depth is "layer".
    """
    weights = prunable(model, select=select, ignore=ignore)
    of_rows = _total(part.norms() for part in grouped(weights, "row")[0])
    of_channels = _total(part.norms() for part in grouped(weights, "channel")[0])
    return rows * of_rows + channels * of_channels


def batch_norm_scales(model: nn.Module) -> Tensor:
    """sum(|gamma|) over the scales of all batch normalisations: channels become small.

    Raises:
        ConfigError: the model has no batch normalisation with scales.

    Source: Liu, Li, Shen, Huang, Yan and Zhang 2017, Learning efficient convolutional networks
        through network slimming, arXiv 1708.06519, eq. 1.
    """
    scales = [m.weight for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]
    if not scales:
        raise ConfigError(f"{type(model).__name__} has no batch normalisation with scales")
    return _total(scale.abs() for scale in scales)


PENALTIES: dict[str, Penalty] = {
    "l1": l1,
    "weight_decay": weight_decay,
    "weight_elimination": weight_elimination,
    "elimination_and_decay": elimination_and_decay,
    "group_lasso": group_lasso,
    "structured_sparsity": structured_sparsity,
    "batch_norm_scales": batch_norm_scales,
}


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.sum() for part in parts]).sum()

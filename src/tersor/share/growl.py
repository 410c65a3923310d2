"""GrOWL: a penalty under which what reads correlated inputs becomes equal, or zero.

penalty(W) = sum_i lambda_i * ||w_[i]||_2,   w_[1] the row of the largest norm, lambda descending

A row is all that one input (a channel, of a convolution) is multiplied by.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned, unwrap
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, Weight, survey


def owl_weights(rows: int, strength: float, slope: float, *, top: float = 1.0) -> Tensor:
    """lambda_i = strength + slope * max(0, ceil(top * rows) - i), i = 1 to rows: (rows,) float64.

    Args:
        rows: p.
        strength: of every row, 0 or more.
        slope: how much more each larger row has, 0 or more; 0 is the group lasso.
        top: the share of the rows, from the largest on, that has the slope: 1 is OSCAR.

    Raises:
        ConfigError: a setting is out of range, or both strengths are 0.

    Source: Zhang, Wang, Figueiredo and Balzano 2018, Learning to share, ICLR, section 4; `top` is
        their piecewise linear decay.

    >>> owl_weights(4, 1.0, 0.5).tolist(), owl_weights(4, 1.0, 0.5, top=0.5).tolist()
    ([2.5, 2.0, 1.5, 1.0], [1.5, 1.0, 1.0, 1.0])
    """
    if not (0 <= strength < math.inf and 0 <= slope < math.inf and strength + slope > 0):
        raise ConfigError(
            f"strength {strength}, slope {slope}; expected 0 or more, and one of them above 0"
        )
    if not 0 < top <= 1:
        raise ConfigError(f"top: {top}; expected 0 < top <= 1, a share of the rows")
    places = torch.arange(1, rows + 1, dtype=torch.float64)
    return strength + slope * (math.ceil(round(top * rows, 6)) - places).clamp(min=0)


def owl_prox(norms: Tensor, weights: Tensor) -> Tensor:
    """argmin over x >= 0 of ||x - norms||^2 / 2 + sum_i weights_i * x_[i].

    The sorted norms less the weights are projected on what descends and is not negative, by
    pooling adjacent violators; norms that are pooled become equal.

    Args:
        norms: (p,), not negative.
        weights: (p,), descending, not negative.

    Source: Bogdan, van den Berg, Sabatti, Su and Candes 2015, SLOPE, algorithm 3.

    >>> owl_prox(torch.tensor([3.0, 1.0, 2.9]), torch.tensor([1.0, 0.5, 0.2])).tolist()
    [2.200000047683716, 0.800000011920929, 2.200000047683716]
    """
    order = norms.argsort(descending=True, stable=True)
    differences = norms[order].double().cpu() - weights.double().cpu()
    pooled = torch.tensor(_descending(differences.tolist()), dtype=torch.float64).clamp_(min=0)
    return torch.empty_like(norms).index_copy_(0, order, pooled.to(norms))


def growl_prox(weight: Tensor, weights: Tensor) -> Tensor:
    """The weight `(out, in, *kernel)` with the norms of its rows as `owl_prox` has them.

    prox(w)_j = w_j * owl_prox(norms)_j / ||w_j||, the exact proximal map of the penalty.

    >>> growl_prox(torch.tensor([[3.0, 0.1], [4.0, 0.1]]), torch.tensor([1.0, 0.5]))
    tensor([[2.4000, 0.0000],
            [3.2000, 0.0000]])
    """
    rows = weight.transpose(0, 1).flatten(1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    factors = owl_prox(norms, weights) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    shrunk: Tensor = weight * factors.view(1, -1, *[1] * (weight.dim() - 2)) + 0.0  # no -0.0
    return shrunk


class GrOWL:
    """Proximal steps of the GrOWL penalty after each step of an optimizer.

    Rows that read correlated inputs come to have equal norms and, as they then compete no more,
    near-equal values; others become exactly zero. Then `share_rows_` ties them.

    Args:
        model: the model that the optimizer trains; changed in place.
        strength, slope, top: as in `owl_weights`, each times the learning rate at every step.
        select, ignore: which weights take part, as in `tersor.core.prunable`; of them those of
            linear layers and of convolutions without groups.

    Raises:
        ConfigError: a setting is out of range, or no weight can take part.

    Source: as `owl_weights`, algorithm 1. Theirs is a step of gradient descent; with momentum or
        Adam the map is the same, but not the prox in their metric.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.95, 0.01]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> with GrOWL(layer, 0.2, 1.0).attach(optimizer):
    ...     optimizer.step()
    >>> layer.weight.data
    tensor([[0.8050, 0.8050, 0.0000]])
    """

    finished = True  # the zeros and the order are there after any step

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        slope: float,
        *,
        top: float = 1.0,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        self._weights, self._skipped = rows_of(model, select=select, ignore=ignore)
        self._lambdas = {
            w.name: owl_weights(w.shape[1], strength, slope, top=top) for w in self._weights
        }

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Apply the map after every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        owners = {id(p): group for group in unwrap(optimizer).param_groups for p in group["params"]}
        groups = [owners.get(id(w.parameter), {"lr": 0.0}) for w in self._weights]
        return Attachment(optimizer, after=lambda: self._after_step(groups))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: all that it has done is in the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is to be loaded."""

    def report(self) -> Report:
        """For each weight how many rows are zero, and how many different norms the others have."""
        rows: list[dict[str, Value]] = []
        for weight in self._weights:
            norms = torch.linalg.vector_norm(
                weight.parameter.detach().transpose(0, 1).flatten(1), dim=1
            )
            alive = norms[norms > 0].double().sort().values
            gaps = int((alive.diff() > 1e-4 * alive[1:]).sum()) + 1 if len(alive) else 0
            row: dict[str, Value] = {"name": weight.name, "rows": len(norms)}
            rows.append(row | {"zero": len(norms) - len(alive), "norms": gaps})
        return Report("GrOWL", {"tensors": len(rows)}, rows, self._skipped)

    @torch.no_grad()
    def _after_step(self, groups: list[dict[str, Any]]) -> None:
        for weight, group in zip(self._weights, groups, strict=True):
            lambdas = self._lambdas[weight.name] * float(group["lr"])
            weight.parameter.copy_(growl_prox(weight.parameter, lambdas))


def rows_of(
    model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
) -> tuple[list[Weight], dict[str, str]]:
    """The weights that have a row for each input, and for every other parameter why not.

    Raises:
        ConfigError: a selector matches nothing, or no weight is left.
    """
    found, skipped = survey(model, select=select, ignore=ignore)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = []
    for weight in found:
        if not isinstance(weight.module, kinds) or weight.kind not in ("linear", "conv"):
            skipped[weight.name] = f"of {type(weight.module).__name__}; expected Linear or Conv"
        elif getattr(weight.module, "groups", 1) != 1:
            skipped[weight.name] = f"its inputs are split among {weight.module.groups} groups"
        else:
            weights.append(weight)
    if not weights:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ConfigError(f"{type(model).__name__} has no weight with rows ({reasons})")
    return weights, skipped


def _descending(values: list[float]) -> list[float]:
    """The nearest descending values: blocks that ascend are pooled to their mean."""
    sums: list[float] = []
    sizes: list[int] = []
    for value in values:
        sums.append(value)
        sizes.append(1)
        while len(sums) > 1 and sums[-1] * sizes[-2] > sums[-2] * sizes[-1]:
            total, size = sums.pop(), sizes.pop()
            sums[-1] += total
            sizes[-1] += size
    return [s / n for s, n in zip(sums, sizes, strict=True) for _ in range(n)]

"""Rows of a weight that are nearly equal become one, and stay one while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors
from tersor.share.growl import rows_of


def share_rows_(
    model: nn.Module,
    tolerance: float = 0.1,
    *,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, Tensor], Report]:
    """Give rows that are nearly equal their mean, in place. A row is what one input is read by.

    From the largest row on, each joins the first cluster whose first row it is near to, or opens
    one of its own. Rows of zeros stay zero.

    Args:
        model: changed in place.
        tolerance: ||a - b|| / ||a|| up to which a row b is near the first row a of a cluster.
        select, ignore: as in `GrOWL`.

    Returns:
        For each weight the cluster of each of its inputs, -1 for zero rows, which `SharedRows`
        takes; and a report.

    Raises:
        ConfigError: the tolerance is negative, or no weight has rows.

    Source: the step between the two trainings of Zhang et al. 2018 (see `owl_weights`); they
        cluster by affinity propagation.

    >>> layer = nn.Linear(3, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 1.02], [2.0, 0.0, 1.98]]))
    >>> clusters, report = share_rows_(layer)
    >>> clusters["weight"].tolist(), layer.weight.data
    ([0, -1, 0], tensor([[1.0100, 0.0000, 1.0100],
            [1.9900, 0.0000, 1.9900]]))
    """
    if not 0 <= tolerance < float("inf"):
        raise ConfigError(f"tolerance: {tolerance}; expected 0 or more, a relative distance")
    weights, skipped = rows_of(model, select=select, ignore=ignore)
    found: dict[str, Tensor] = {}
    reported: list[dict[str, Value]] = []
    for weight in weights:
        rows = weight.parameter.detach().transpose(0, 1).flatten(1)
        codes = _clusters(rows, tolerance)
        found[weight.name] = codes
        alive = int((codes >= 0).sum())
        clusters = int(codes.max()) + 1
        row: dict[str, Value] = {
            "name": weight.name,
            "rows": len(codes),
            "zero": len(codes) - alive,
        }
        reported.append(row | {"clusters": clusters, "numbers": clusters * rows.shape[1]})
    for weight in weights:
        codes = found[weight.name]
        rows = weight.parameter.detach().transpose(0, 1)
        means = _sums(rows, codes) / _sizes(codes).view(-1, *[1] * (rows.dim() - 1))
        _put(rows, means.to(rows.dtype), codes)
    summary: dict[str, Value] = {
        "weights": sum(weight.parameter.numel() for weight in weights),
        "numbers": sum(int(row["numbers"] or 0) for row in reported),
        "tolerance": tolerance,
    }
    return found, Report("Shared rows", summary, reported, skipped)


class SharedRows:
    """Train on with rows that stay equal: each takes the sum of its cluster's gradients.

    Args:
        model: the model that `share_rows_` changed.
        clusters: what `share_rows_` gave.

    Raises:
        ConfigError: the model lacks a weight, or it has another number of inputs.

    Source: as `share_rows_`; a shared row's gradient is the sum over its places (theirs is the
        mean, which is the same direction).

    >>> layer = nn.Linear(4, 2)
    >>> clusters, _ = share_rows_(layer, 9.0)
    >>> optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    >>> with SharedRows(layer, clusters).attach(optimizer):
    ...     layer(torch.randn(5, 4)).square().sum().backward()
    ...     optimizer.step()
    >>> len(layer.weight.unique(dim=1).T)
    1
    """

    finished = True  # the rows are equal from the first step on

    def __init__(self, model: nn.Module, clusters: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, codes in clusters.items():
            if name not in parameters or parameters[name].shape[1:2] != codes.shape:
                raise ConfigError(
                    f"clusters {name!r}: {type(model).__name__} has no such weight "
                    f"with {len(codes)} inputs"
                )
        self._weights = {name: parameters[name] for name in clusters}
        self._clusters = dict(clusters)

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Act at every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, self._weights.items())
        for name, weight in self._weights.items():
            self._clusters[name] = self._clusters[name].to(weight.device)
        return Attachment(optimizer, before=self._before_step, after=self._after_step)

    def state_dict(self) -> dict[str, Any]:
        """The clusters; the values are in the weights."""
        return {name: codes.cpu() for name, codes in self._clusters.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self._clusters = {n: codes.to(self._weights[n].device) for n, codes in state.items()}

    @torch.no_grad()
    def _before_step(self) -> None:
        for name, weight in self._weights.items():
            if weight.grad is not None:
                rows = weight.grad.transpose(0, 1)
                _put(rows, _sums(rows, self._clusters[name]), self._clusters[name])

    @torch.no_grad()
    def _after_step(self) -> None:
        for name, weight in self._weights.items():
            codes, rows = self._clusters[name], weight.detach().transpose(0, 1)
            _put(rows, rows[_firsts(codes)], codes)


def _clusters(rows: Tensor, tolerance: float) -> Tensor:
    """The cluster of each row: (p,) int64, -1 for rows of zeros."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    codes = torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    open_ = norms > 0
    cluster = 0
    for place in norms.argsort(descending=True, stable=True).tolist():
        if not open_[place]:
            continue
        distance = torch.linalg.vector_norm(rows - rows[place], dim=1)
        near = open_ & (distance <= tolerance * norms[place])
        near[place] = True
        codes[near] = cluster
        open_ &= ~near
        cluster += 1
    return codes


def _sizes(codes: Tensor) -> Tensor:
    return torch.bincount(codes[codes >= 0])


def _sums(rows: Tensor, codes: Tensor) -> Tensor:
    """The sum of the rows of each cluster."""
    sums = rows.new_zeros((int(codes.max()) + 1, *rows.shape[1:]))
    return sums.index_add_(0, codes[codes >= 0], rows[codes >= 0])


def _firsts(codes: Tensor) -> Tensor:
    """The first row of each cluster."""
    order = codes.argsort(stable=True)[int((codes < 0).sum()) :]
    ends = _sizes(codes).cumsum(0)
    return order[ends - _sizes(codes)]


def _put(rows: Tensor, values: Tensor, codes: Tensor) -> None:
    """Set each row to its cluster's value, and rows of zeros to zero."""
    padded = torch.cat([values, values.new_zeros((1, *rows.shape[1:]))])
    rows.copy_(padded[codes])  # -1 is the last

"""Hidden units that say nothing of their own: constant ones become a bias, copies become one.

v_j ~ alpha * v_i + beta over some data:  W_ki += alpha * W_kj,  b_k += beta * W_kj,  W_kj = 0

What is removed is masked, not cut out. Where the dependence is exact, so is the network after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.derivatives import differentiable
from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.prune.scoring import Data, ScoringData, as_scoring_data

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def merge_units_(
    model: nn.Module,
    chains: Iterable[tuple[str, str]],
    data: Data,
    *,
    correlation: float = 0.99,
    deviation: float = 1e-3,
    masks: MaskSet | None = None,
) -> tuple[MaskSet, Report]:
    """Fold constant hidden units into the next bias and merge those that follow another, in place.

    Unit i is one output of the first layer: a row of a linear layer, a filter of a convolution. Its
    values are those that reach the second layer, so what lies between (an activation, batch
    normalisation, pooling, flattening) takes part.

        c_ij = cov(v_i, v_j) / (s_i s_j),   alpha = cov(v_i, v_j) / s_i**2,
        beta = mean(v_j) - alpha * mean(v_i)

    Pairs are merged from the largest |c_ij| on. Of a pair the one goes whose values times its
    outgoing weights are smaller. At 1, up to rounding, the outputs stay as they are, on this data;
    below, the outputs of the second layer lose the rest of v_j, of variance s_j**2 (1 - c**2).

    Args:
        model: changed in place: the incoming weights and the bias of a unit that goes are zero, and
            the second layer has new weights and a new bias.
        chains: (first, second) names of modules, one after the other. All that the first gives must
            go to the second, each unit for itself, and nowhere else.
        data: batches that the units are looked at on, in eval mode.
        correlation: 0 < correlation <= 1; merged are units with |c_ij| of at least that.
        deviation: a unit is constant if s_i is at most that, in units of the largest root mean
            square of the layer's units.
        masks: what is pruned already, and stays; where weights are merged, either may be kept.

    Returns:
        Masks of the weights of all named layers and of those given, and a report.

    Raises:
        ConfigError: a module is missing, is no linear layer or convolution, or does not fit the
            other one; the second has no bias, or pads with zeros; there is no data.

    Source: Sietsma and Dow 1991, Creating artificial neural networks that generalize (constant and
    doubled units); Tu, Zhan and Han 2010 (by correlation, with alpha and beta). The order, which of
    a pair goes, and convolutions are ours; so is that a unit that is not listened to goes as well.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]))
    >>> _ = net[0].bias.data.copy_(torch.tensor([1.0, 2.0, 5.0]))
    >>> _ = net[2].weight.data.fill_(1.0)
    >>> inputs = torch.rand(9, 2, dtype=torch.double)
    >>> before = net(inputs)
    >>> masks, report = merge_units_(net, [("0", "2")], [(inputs, None)])
    >>> masks["2.weight"].int().tolist(), torch.allclose(net(inputs), before)
    ([[0, 1, 0]], True)
    >>> [report.rows[0][what] for what in ("units", "constant", "merged", "left")]
    [3, 1, 1, 1]
    """
    if not (0 < correlation <= 1 and deviation >= 0):
        raise ConfigError(
            f"merge_units_: correlation {correlation}, deviation {deviation}; "
            "expected 0 < correlation <= 1 and deviation >= 0"
        )
    scoring = as_scoring_data(data)
    links = [_link(model, first, second) for first, second in chains]
    known = {} if masks is None else dict(masks)
    rows: list[dict[str, Value]] = []
    gone = 0
    for link in links:
        for name, layer in ((link.first_name, link.first), (link.second_name, link.second)):
            full = torch.ones_like(layer.weight, dtype=torch.bool)
            known[f"{name}.weight"] = known.get(f"{name}.weight", full).to(full.device).clone()
        moments = _observe(model, link, scoring)
        units, constant, merged = _merge_(link, moments, known, correlation, deviation)
        gone += constant + merged
        rows.append(
            {
                "first": link.first_name,
                "second": link.second_name,
                "units": units,
                "constant": constant,
                "merged": merged,
                "left": units - constant - merged,
            }
        )
    found = MaskSet(known)
    return found, Report(
        "Merging units", {"units gone": gone, "density reached": found.density}, rows
    )


@dataclass(frozen=True)
class _Link:
    """Two layers; each unit of the first has `places` inputs of the second."""

    first_name: str
    second_name: str
    first: nn.Linear | _Conv
    second: nn.Linear | _Conv

    @property
    def units(self) -> int:
        return len(self.first.weight)

    def outgoing(self, weight: Tensor) -> Tensor:
        """The second layer's weight, or its mask, as (out, units, places), a view."""
        return weight.view(len(weight), self.units, -1)


@dataclass
class _Moments:
    """Samples, mean (units,) and scatter (units, units), the sums of products about the mean."""

    count: int
    mean: Tensor
    scatter: Tensor

    def add(self, values: Tensor) -> None:
        """Take in more samples, (samples, units), without a difference of large sums.

        Source: Chan, Golub and LeVeque 1983, Algorithms for computing the sample variance, eq. 2.1.
        """
        values = values.double()
        mean = values.mean(dim=0)
        apart = values - mean
        step = mean - self.mean
        total = self.count + len(values)
        share = self.count * len(values) / total
        self.scatter += apart.T @ apart + share * torch.outer(step, step)
        self.mean += step * (len(values) / total)
        self.count = total


def _link(model: nn.Module, first_name: str, second_name: str) -> _Link:
    modules = dict(model.named_modules())
    for name in (first_name, second_name):
        if name not in modules:
            raise ConfigError(f"merge_units_: no module {name!r}; {did_you_mean(name, modules)}")
        if not isinstance(modules[name], nn.Linear | _Conv):
            raise ConfigError(
                f"merge_units_: {name!r} is a {type(modules[name]).__name__}; "
                "expected a linear layer or a convolution"
            )
    first, second = modules[first_name], modules[second_name]
    assert isinstance(first, nn.Linear | _Conv)  # as was found above
    assert isinstance(second, nn.Linear | _Conv)
    units = len(first.weight)
    flat = isinstance(second, nn.Linear)
    fits = second.weight.shape[1] % units == 0 if flat else second.weight.shape[1] == units
    if not fits:
        raise ConfigError(
            f"merge_units_: {first_name!r} has {units} units, but {second_name!r} takes "
            f"{second.weight.shape[1]} inputs; expected {'a multiple' if flat else 'as many'}"
        )
    if second.bias is None:
        raise ConfigError(f"merge_units_: {second_name!r} has no bias; it takes the constants")
    if not isinstance(second, nn.Linear):
        padded = second.padding if isinstance(second.padding, str) else any(second.padding)
        if padded and padded != "valid" and second.padding_mode == "zeros":
            raise ConfigError(
                f"merge_units_: {second_name!r} pads with zeros, and at the edge a unit that is "
                "constant is not; expected no padding, or another padding mode"
            )
    return _Link(first_name, second_name, first, second)


def _observe(model: nn.Module, link: _Link, data: ScoringData) -> _Moments:
    """The moments of what reaches the second layer, with all places of a unit as samples."""
    device = link.second.weight.device
    units = link.units
    zeros = torch.zeros(units, dtype=torch.float64, device=device)
    moments = _Moments(0, zeros, torch.zeros(units, units, dtype=torch.float64, device=device))

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach()
        if isinstance(module, nn.Linear):  # (*, units * places)
            values = values.reshape(-1, units, values.shape[-1] // units)
        else:  # (N, units, *places)
            values = values.reshape(-1, units, values[0, 0].numel())
        moments.add(values.transpose(1, 2).reshape(-1, units))

    handle = link.second.register_forward_pre_hook(look)
    try:
        with differentiable(model), torch.no_grad():
            for inputs, _ in _batches(model, data):
                model(inputs)
    finally:
        handle.remove()
    if moments.count == 0:
        raise ConfigError(
            f"merge_units_: nothing came to {link.second_name!r}; expected data=, batches of "
            "(inputs, targets), and a model that uses this layer"
        )
    return moments


def _batches(model: nn.Module, data: ScoringData) -> Iterator[tuple[Tensor, object]]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for inputs, targets in data.batches or ():
        yield inputs.to(device), targets


@torch.no_grad()
def _merge_(
    link: _Link,
    moments: _Moments,
    masks: dict[str, Tensor],
    correlation: float,
    deviation: float,
) -> tuple[int, int, int]:
    """Change the two layers and their masks; how many units there were, and how many went how."""
    incoming, kept = masks[f"{link.first_name}.weight"], masks[f"{link.second_name}.weight"]
    # A bias of float64 until the end, so that many small constants are not rounded one by one.
    outgoing = link.outgoing(link.second.weight.detach().double().clone())
    outgoing_kept = link.outgoing(kept)
    assert link.second.bias is not None  # as `_link` has found
    bias = link.second.bias.detach().double()
    mean, spread = moments.mean, (moments.scatter.diagonal() / moments.count).sqrt()
    largest = (mean.square() + spread.square()).sqrt().max()
    used = outgoing.ne(0).any(dim=2).any(dim=0)
    flat = used & (spread <= deviation * largest)
    alive = used & ~flat
    bias += outgoing[:, flat].sum(dim=2) @ mean[flat]

    merged = 0
    weighed = spread * outgoing.square().sum(dim=(0, 2)).sqrt()
    for i, j, c in _pairs(moments.scatter, alive, correlation):
        if not (alive[i] and alive[j]):
            continue
        stays, goes = (i, j) if weighed[j] <= weighed[i] else (j, i)
        alpha = c * spread[goes] / spread[stays]
        bias += outgoing[:, goes].sum(dim=1) * (mean[goes] - alpha * mean[stays])
        outgoing[:, stays] += alpha * outgoing[:, goes]
        outgoing_kept[:, stays] |= outgoing_kept[:, goes]
        weighed[stays] = spread[stays] * outgoing[:, stays].square().sum().sqrt()
        alive[goes] = False
        merged += 1

    outgoing_kept[:, ~alive] = False
    incoming[~alive] = False
    outgoing *= outgoing_kept
    link.second.weight.copy_(outgoing.view(link.second.weight.shape))
    link.second.bias.copy_(bias)
    link.first.weight[~alive] = 0.0
    if link.first.bias is not None:
        link.first.bias[~alive] = 0.0
    return int(used.sum()), int(flat.sum()), merged


def _pairs(scatter: Tensor, alive: Tensor, least: float) -> Sequence[tuple[int, int, float]]:
    """Pairs of units with their correlation, the strongest first, ties by number."""
    roots = torch.where(alive, scatter.diagonal().sqrt(), 1.0)
    c = (scatter / torch.outer(roots, roots)).clamp(-1, 1)
    # What is exactly dependent has a correlation of 1 up to the rounding of its sums.
    strong = (c.abs() >= least * (1 - 1e-12)) & torch.outer(alive, alive)
    first, second = strong.triu(diagonal=1).nonzero(as_tuple=True)
    values = c[first, second]
    order = values.abs().sort(descending=True, stable=True).indices
    return [(int(first[k]), int(second[k]), float(values[k])) for k in order]

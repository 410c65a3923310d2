"""A stack of R layers with the parameters of fewer: recurrent stacking, ALBERT, cycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.report import Report
from tersor.core.tables import look_up
from tersor.share.tying import slots_of, tie_parameters_

Order = Callable[[int, int, int], int]
"""Place of a layer, number of layers, number of different ones, to which of these it is."""


def sequence(place: int, depth: int, unique: int) -> int:
    """Neighbours share: 0 0 1 1 2 2.

    >>> [sequence(i, 6, 3) for i in range(6)]
    [0, 0, 1, 1, 2, 2]
    """
    return place * unique // depth


def cycle(place: int, depth: int, unique: int) -> int:
    """The whole stack is repeated: 0 1 2 0 1 2.

    >>> [cycle(i, 6, 3) for i in range(6)]
    [0, 1, 2, 0, 1, 2]
    """
    return place % unique


def cycle_reversed(place: int, depth: int, unique: int) -> int:
    """As `cycle`, with the last round backwards: 0 1 2 2 1 0.

    >>> [cycle_reversed(i, 6, 3) for i in range(6)]
    [0, 1, 2, 2, 1, 0]
    """
    last = place >= unique * (-(-depth // unique) - 1) and unique < depth
    return unique - 1 - place % unique if last else place % unique


ORDERS: dict[str, Order] = {f.__name__: f for f in (sequence, cycle, cycle_reversed)}


def share_layers_(
    model: nn.Module,
    layers: str | Sequence[str],
    unique: int = 1,
    *,
    order: str | Sequence[int] = "sequence",
    own: type[nn.Module] | tuple[type[nn.Module], ...] = (),
) -> Report:
    """Let the layers of a stack share the parameters of a few of them, in place.

    Of P numbers a layer, R * P become unique * P + (R - unique) * those of the `own` modules. The
    layers stay modules of their own, so each keeps its buffers (running statistics) and options.
    The values of the first layer of each group stand; make the optimizer afterwards.

    Args:
        model: changed in place.
        layers: the name of a list or sequence of layers ("encoder.layers"), or their names.
        unique: how many different layers are left, at least 1; 1 is recurrent stacking.
        order: which layers are one: "sequence", "cycle" or "cycle_reversed"; or for each layer
            the number of its group ([0, 1, 1, 0]), and then `unique` has no say.
        own: types of modules within a layer whose parameters stay each layer's own, such as
            `nn.LayerNorm`.

    Returns:
        A report with a row for each parameter that is gone.

    Raises:
        ConfigError: a name is unknown, the layers differ in their parameters, or `unique` or
            `order` does not fit their number.

    Source: Dabre and Fujita 2019 (recurrent stacking), Lan et al. 2019, arXiv 1909.11942 (ALBERT;
        its factorised embedding is a matter of low rank), orders: Takase and Kiyono 2021, arXiv
        2104.06022.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 6)
    >>> before = sum(p.numel() for p in model.parameters())
    >>> report = share_layers_(model, "layers")
    >>> before, sum(p.numel() for p in model.parameters())
    (3600, 600)
    """
    names = _layers(model, layers)
    groups = _groups(names, unique, order)
    leaders: dict[int, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    slots = slots_of(model)
    pairs: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        leader = leaders.setdefault(group, name)
        if leader == name:
            continue
        ours, theirs = (_shared_names(modules[n], own) for n in (name, leader))
        if ours != theirs:
            odd = ", ".join(sorted(set(ours) ^ set(theirs))[:5])
            raise ConfigError(f"share_layers_: {name!r} and {leader!r}: only one of them has {odd}")
        pairs |= {f"{name}.{p}": f"{leader}.{p}" for p in ours if f"{name}.{p}" in slots}
    if not pairs:
        raise ConfigError(
            f"share_layers_: {len(names)} layers in the groups {groups} share no parameter; "
            "expected fewer groups than layers"
        )
    report = tie_parameters_(model, pairs)
    summary = {"layers": len(names), "different layers": len(leaders)}
    return replace(report, title="Shared layers", summary={**summary, **report.summary})


def _layers(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [layers] if isinstance(layers, str) else list(layers)
    for name in names:
        if name not in modules:
            known = [known for known in modules if known]
            raise ConfigError(f"share_layers_: {name!r}; {did_you_mean(name, known)}")
    if isinstance(layers, str):
        names = [f"{layers}.{own}".lstrip(".") for own, _ in modules[layers].named_children()]
    if len(names) < 2:
        raise ConfigError(f"share_layers_: {layers!r} is {len(names)} layers; expected 2 or more")
    return names


def _groups(names: list[str], unique: int, order: str | Sequence[int]) -> list[int]:
    if not isinstance(order, str):
        if len(order) != len(names):
            raise ConfigError(f"order: {len(order)} numbers for {len(names)} layers")
        return list(order)
    if not 1 <= unique <= len(names):
        raise ConfigError(f"unique: {unique}; expected 1 to {len(names)}, the layers there are")
    place_of = look_up("order", order, ORDERS)
    return [place_of(place, len(names), unique) for place in range(len(names))]


def _shared_names(
    layer: nn.Module, own: type[nn.Module] | tuple[type[nn.Module], ...]
) -> list[str]:
    """The parameters of a layer that are shared."""
    kept = [path for path, module in layer.named_modules() if isinstance(module, own)]
    return [
        name
        for name, _ in layer.named_parameters(remove_duplicate=False)
        if not any(name.startswith(path + ".") or not path for path in kept)
    ]

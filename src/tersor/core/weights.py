"""Which tensors of a model are weights: by qualified name, with kind and shape, ties seen once.

Biases, normalisation parameters and buffers are never among them. A module of another kind says by
a class attribute `weight_kinds`, parameter name to kind, which of its parameters are weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from tersor.core.errors import ConfigError, did_you_mean

Selector = str | type[nn.Module]
"""A qualified name of a weight or a module (all below it), `re:pattern`, or a module type."""

Selectors = Selector | Iterable[Selector] | None

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight tensor of a model.

    Args:
        name: qualified name of the parameter, as in `model.state_dict()`.
        kind: "linear", "conv", "conv_transposed", "embedding", "recurrent", "attention", or what
            the module's `weight_kinds` says.
        parameter: the tensor itself, `(out, in, *kernel)` as torch has it.
        module: the module that owns it (the first one, if several share it).
        aliases: further names of the same tensor.
    """

    name: str
    kind: str
    parameter: nn.Parameter
    module: nn.Module
    aliases: tuple[str, ...] = ()

    @property
    def shape(self) -> torch.Size:
        return self.parameter.shape


def prunable(
    model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
) -> list[Weight]:
    """The weights of a model in the order of its modules; tied weights once.

    Args:
        model: any module.
        select: take only what one of these selectors names. A string is a qualified name
            ("fc1.weight", or "encoder" for all below it), a class name ("Linear"), or
            "re:pattern", matched from the start of the weight's name. A type is matched by
            `isinstance`. None takes all.
        ignore: leave out what one of these selectors names.

    Raises:
        ConfigError: a selector matches nothing, or nothing is left.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(w.name, w.kind, tuple(w.shape)) for w in prunable(model, ignore="2")]
    [('0.weight', 'linear', (3, 4))]
    """
    return survey(model, select=select, ignore=ignore)[0]


def survey(
    model: nn.Module, *, select: Selectors = None, ignore: Selectors = None
) -> tuple[list[Weight], dict[str, str]]:
    """The weights of a model, and for every other parameter the reason why it is none.

    Args, Raises: as `prunable`.
    """
    chosen, ignored = _as_list(select), _as_list(ignore)
    used: set[int] = set()
    weights: list[Weight] = []
    skipped: dict[str, str] = {}
    for weight, reason in _walk(model):
        if not reason:
            hits = {i for i, s in enumerate(chosen) if _matches(s, weight)}
            drops = {len(chosen) + i for i, s in enumerate(ignored) if _matches(s, weight)}
            used |= hits | drops
            if drops:
                reason = "ignored"
            elif chosen and not hits:
                reason = "not selected"
        if reason:
            skipped[weight.name] = reason
        else:
            weights.append(weight)
    for index, selector in enumerate(chosen + ignored):
        if index not in used:
            raise ConfigError(_no_match(selector, model))
    if not weights:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(skipped.items())[:5]) or "no parameters"
        raise ConfigError(f"{type(model).__name__} has no weights to work on ({reasons})")
    return weights, skipped


def assign(
    model: nn.Module, values: Mapping[str, Value], among: Iterable[Weight], *, what: str
) -> dict[str, Value]:
    """The value of each weight for which one of the selectors stands; the others have none.

    Args:
        values: selector to value.
        among: weights that take part.
        what: the argument, for the message.

    Raises:
        ConfigError: there are no selectors, one matches nothing, or two name the same weight
            with different values.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> assign(net, {"0": 8, "re:1": 5}, prunable(net), what="bits")
    {'0.weight': 8, '1.weight': 5}
    """
    if not values:
        raise ConfigError(f"{what}: an empty mapping; expected a value for each selector")
    names = {weight.name for weight in among}
    assigned: dict[str, Value] = {}
    for selector, value in values.items():
        for weight in prunable(model, select=selector):
            if weight.name in names and assigned.setdefault(weight.name, value) != value:
                raise ConfigError(
                    f"{what}: two selectors name {weight.name!r}, "
                    f"with {assigned[weight.name]} and {value}"
                )
    return assigned


def _is_weight(name: str) -> bool:
    return name == "weight"


def _is_matrix(name: str) -> bool:
    return "weight" in name


_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str, Callable[[str], bool]], ...] = (
    ((nn.Linear, nn.Bilinear), "linear", _is_weight),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "conv", _is_weight),
    (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        "conv_transposed",
        _is_weight,
    ),
    ((nn.Embedding, nn.EmbeddingBag), "embedding", _is_weight),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent", _is_matrix),
    ((nn.MultiheadAttention,), "attention", _is_matrix),
)


def _kind(module: nn.Module, name: str) -> str | None:
    for types, kind, holds in _KINDS:
        if isinstance(module, types) and holds(name):
            return kind
    if type(module).__name__ == "Conv1D" and name == "weight":  # Hugging Face: (in, out)
        return "linear"
    declared = getattr(type(module), "weight_kinds", {})
    return declared.get(name) if isinstance(declared, Mapping) else None


def _walk(model: nn.Module) -> Iterator[tuple[Weight, str]]:
    """Every parameter of the model once, with the reason why it is no weight, or "" if it is."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    # A tensor that several modules share counts as what the first module that knows it says.
    kinds: dict[int, tuple[str, nn.Module]] = {}
    owners: dict[int, nn.Module] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), module)
            kind = _kind(module, name)
            if kind is not None:
                kinds.setdefault(id(parameter), (kind, module))
    for parameter in model.parameters():
        first, *aliases = names[id(parameter)]
        kind, module = kinds.get(id(parameter), ("", owners[id(parameter)]))
        weight = Weight(first, kind, parameter, module, tuple(aliases))
        yield weight, _why_not(weight)


def _why_not(weight: Weight) -> str:
    if isinstance(weight.parameter, UninitializedParameter):
        return "not initialised yet: run one batch through the model first"
    if ".parametrizations." in f".{weight.name}":
        return "parametrised: torch.nn.utils.parametrize.remove_parametrizations first"
    if weight.name.endswith("_orig") and hasattr(weight.module, _own_name(weight)[:-4] + "mask"):
        return "masked by torch.nn.utils.prune: call prune.remove first"
    if not weight.kind:
        if "bias" in weight.name.rpartition(".")[2]:
            return "a bias"
        return f"of {type(weight.module).__name__}, whose parameters are no weights"
    if not weight.parameter.is_floating_point():
        return f"not floating point but {weight.parameter.dtype}"
    return ""


def _own_name(weight: Weight) -> str:
    return weight.name.rpartition(".")[2]


def _as_list(selectors: Selectors) -> list[Selector]:
    if selectors is None:
        return []
    if isinstance(selectors, str | type):
        return [selectors]
    return list(selectors)


def _matches(selector: Selector, weight: Weight) -> bool:
    if isinstance(selector, type):
        return isinstance(weight.module, selector)
    names = (weight.name, *weight.aliases)
    if selector.startswith("re:"):
        try:
            return any(re.match(selector[3:], name) for name in names)
        except re.error as error:
            raise ConfigError(f"selector {selector!r}: not a regular expression: {error}") from None
    below = any(name == selector or name.startswith(selector + ".") for name in names)
    return below or type(weight.module).__name__ == selector


def _no_match(selector: Selector, model: nn.Module) -> str:
    if isinstance(selector, type):
        return f"selector {selector.__name__}: no weight of {type(model).__name__} is of this type"
    known: set[str] = set()
    for weight, reason in _walk(model):
        if not reason:
            parts = weight.name.split(".")
            known |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            known.add(type(weight.module).__name__)
    return (
        f"selector {selector!r}: matches no weight of {type(model).__name__}; "
        f"{did_you_mean(selector, known)}"
    )

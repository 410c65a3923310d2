"""What weights alone do not say about shared ones, as records from which a network is rebuilt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.share.attention_maps import attentions
from tersor.share.attention_sharing import map_groups, share_map_
from tersor.share.hashed_layers import HASHED
from tersor.share.hashing import to_hashed_
from tersor.share.templates import TEMPLATED, template_groups, to_templates_
from tersor.share.tying import tie_parameters_, ties_of

Record = dict[str, Any]
"""JSON data: "name", "kind" and what else the kind needs."""


def structure(model: nn.Module) -> list[Record]:
    """Records of all attention that is shared, and of what is hashed, mixed or tied in a model.

    With them `rebuild_` gives the model as it was built the same parameters, so that the state
    dict loads.

    >>> from tersor.share import hash_, tie_
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    >>> _ = hash_(model, 0.25, seed=1, select="0")
    >>> _ = tie_(model, {"1.bias": "0.bias"})
    >>> [(record["kind"], record["name"]) for record in structure(model)]
    [('hashed', '0'), ('tied', '0.bias')]
    """
    records: list[Record] = [
        {"name": names[0], "kind": "attention", "layers": names} for names in map_groups(model)
    ]
    for name, layer in model.named_modules(remove_duplicate=False):
        if type(layer) in HASHED.values():
            found: Any = layer
            seed, buckets = int(found.hash_seed), len(found.buckets)
            entry = {"buckets": buckets, "seed": seed, "even": bool(found.even)}
            records.append({"name": name, "kind": "hashed", **entry})
    banks: set[str] = set()
    for names in template_groups(model):
        layers: list[Any] = [model.get_submodule(name) for name in names]
        banks |= {_within(name, "templates") for name in names}
        number = len(layers[0].templates)
        records.append({"name": names[0], "kind": "templates", "layers": names})
        records[-1]["templates"] = number
    for first, others in ties_of(model).items():
        if first not in banks:
            records.append({"name": first, "kind": "tied", "names": others})
    return records


def rebuild_(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Give a model, as it was built, the structure of these records; its values are any.

    Args:
        model: changed in place, once all records are known to fit.
        records: what `structure` gave, in its order.

    Raises:
        ConfigError: a record is malformed or does not fit the model. Nothing is changed then.

    >>> import torch
    >>> from tersor.share import hash_
    >>> model, again = nn.Linear(8, 8), nn.Linear(8, 8)
    >>> _ = hash_(model, 0.25)
    >>> rebuild_(again, structure(model))
    >>> again.load_state_dict(model.state_dict())
    <All keys matched successfully>
    >>> torch.equal(again.weight, model.weight)
    True
    """
    for target in (_without_values(model), model):
        for place, record in enumerate(records):
            kind = record.get("kind")
            if kind not in _REBUILD:
                raise ConfigError(f"record {place}: kind {kind!r}; {_known(kind)}")
            try:
                _REBUILD[kind](target, record)
            except KeyError as error:
                raise ConfigError(f"record {place} ({kind}): lacks the key {error}") from None
            except ConfigError as error:
                raise ConfigError(f"record {place} ({kind}): {error}") from error


def _rebuild_hashed(model: nn.Module, record: Mapping[str, Any]) -> None:
    layer: Any = _module(model, record["name"])
    buckets, seed, even = (record[key] for key in ("buckets", "seed", "even"))
    if type(layer) in HASHED.values() and len(layer.buckets) == buckets and layer.even == even:
        return  # the same module under another name
    if type(layer) not in HASHED:
        raise ConfigError(
            f"{record['name']!r} is a {type(layer).__name__}; expected {_types(HASHED)}"
        )
    if not isinstance(buckets, int) or not 1 <= buckets <= layer.weight.numel():
        raise ConfigError(
            f"{record['name']!r}: {buckets!r} buckets; expected 1 to {layer.weight.numel()}"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"{record['name']!r}: seed {seed!r}; expected 0 to 2**63 - 1")
    to_hashed_(layer, buckets, seed, bool(even))


def _rebuild_attention(model: nn.Module, record: Mapping[str, Any]) -> None:
    names = record["layers"]
    found, skipped = attentions(model, names)
    for name, reason in skipped.items():
        raise ConfigError(f"{name!r}: {reason}")
    heads = {layer.num_heads for layer in found.values()}
    if len(found) < 2 or len(heads) > 1:
        raise ConfigError(f"layers {names}; expected two or more, with as many heads")
    share_map_(model, names)


def _rebuild_templates(model: nn.Module, record: Mapping[str, Any]) -> None:
    names, number = record["layers"], record["templates"]
    layers: list[Any] = [_module(model, name) for name in names]
    for name, layer in zip(names, layers, strict=True):
        if type(layer) not in TEMPLATED:
            raise ConfigError(f"{name!r} is a {type(layer).__name__}; expected {_types(TEMPLATED)}")
        if layer.weight.shape != layers[0].weight.shape:
            raise ConfigError(
                f"{name!r} has shape {tuple(layer.weight.shape)}, "
                f"but {names[0]!r} {tuple(layers[0].weight.shape)}"
            )
    if not isinstance(number, int) or not 1 <= number <= len(layers):
        raise ConfigError(f"{number!r} templates; expected 1 to {len(layers)}, the layers")
    weight: Tensor = layers[0].weight.detach()
    to_templates_(
        layers,
        weight.new_zeros((number, *weight.shape)),
        weight.new_zeros((len(layers), number)),
    )


def _rebuild_tied(model: nn.Module, record: Mapping[str, Any]) -> None:
    tie_parameters_(model, dict.fromkeys(record["names"], record["name"]))


_REBUILD: dict[Any, Callable[[nn.Module, Mapping[str, Any]], None]] = {
    "attention": _rebuild_attention,
    "hashed": _rebuild_hashed,
    "templates": _rebuild_templates,
    "tied": _rebuild_tied,
}


def _without_values(model: nn.Module) -> nn.Module:
    """A copy to try on, whose tensors have a shape and no values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def _module(model: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        known = [known for known in modules if known]
        raise ConfigError(f"{type(model).__name__} has no {name!r}; {did_you_mean(name, known)}")
    return modules[name]


def _within(path: str, own: str) -> str:
    return f"{path}.{own}" if path else own


def _types(table: Mapping[type[nn.Module], object]) -> str:
    return ", ".join(kind.__name__ for kind in table if "NonDynamically" not in kind.__name__)


def _known(kind: object) -> str:
    return (
        did_you_mean(kind, _REBUILD) if isinstance(kind, str) else f"known: {', '.join(_REBUILD)}"
    )

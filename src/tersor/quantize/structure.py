"""What a file's weights do not say about a quantized network, and how it is built up again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.quantize.clipping import Pact
from tersor.quantize.fake_quantize import CHILD, FakeQuantize, put_before
from tersor.quantize.folding import FoldedNorm, give_bias, replace

Record = dict[str, Any]


def structure(model: nn.Module) -> list[Record]:
    """The folded norms and the quantizers of inputs of a model, as plain data that JSON can hold.

    >>> model = nn.Sequential(nn.Linear(4, 3))
    >>> put_before(model[0], FakeQuantize(bits=4))
    >>> structure(model)
    [{'name': '0', 'kind': 'activation_quantizer', 'bits': 4, 'symmetric': False}]
    """
    norms: list[Record] = []
    quantizers: list[Record] = []
    settings: Record
    for name, module in model.named_modules():
        quantizer = module._modules.get(CHILD)
        if isinstance(module, FoldedNorm):
            norms.append({"name": name, "kind": "folded_norm", "into": module.into})
        elif isinstance(quantizer, FakeQuantize):
            settings = {"bits": quantizer.bits, "symmetric": quantizer.symmetric}
            quantizers.append({"name": name, "kind": "activation_quantizer", **settings})
        elif isinstance(quantizer, Pact):
            settings = {"bits": quantizer.bits, "signed": quantizer.signed}
            quantizers.append({"name": name, "kind": "pact", **settings})
    return norms + quantizers


def rebuild_(model: nn.Module, records: Iterable[Mapping[str, Any]]) -> None:
    """Give a model the structure of these records, with any values, for `load_state_dict` to fill.

    Raises:
        ConfigError: a record is of no known kind, its settings are out of range, or the model has
            no such module, or one that has it already; then nothing is changed.
    """
    todo: list[Callable[[], None]] = []
    done: set[str] = set()
    for record in records:
        name, kind = str(record.get("name")), str(record.get("kind"))
        where = f"structure of {name!r}"
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind {kind!r}; {did_you_mean(kind, KINDS)}")
        if name not in dict(model.named_modules()):
            raise ConfigError(f"{where}: {type(model).__name__} has no such module")
        if name in done:
            raise ConfigError(f"{where}: there are two records of it already")
        done.add(name)
        settings = {key: value for key, value in record.items() if key not in ("name", "kind")}
        try:
            todo.append(KINDS[kind](model, name, **settings))
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}") from error
    for act in todo:  # all records fit: now, and not before, the model is changed
        act()


def _quantized(model: nn.Module, name: str, quantizer: nn.Module) -> Callable[[], None]:
    layer = model.get_submodule(name)
    if CHILD in layer._modules:
        raise ConfigError("its input is quantized already")
    device = next((parameter.device for parameter in layer.parameters()), None)
    return lambda: put_before(layer, quantizer.to(device))


def _fake(model: nn.Module, name: str, **settings: Any) -> Callable[[], None]:
    return _quantized(model, name, FakeQuantize(**settings))


def _pact(model: nn.Module, name: str, **settings: Any) -> Callable[[], None]:
    return _quantized(model, name, Pact(**settings))


def _folded(model: nn.Module, name: str, into: str) -> Callable[[], None]:
    layer = dict(model.named_modules()).get(str(into))
    if layer is None or not hasattr(layer, "bias") or not hasattr(layer, "weight"):
        raise ConfigError(f"it is folded into {into!r}, which is no layer of the model")

    def fold() -> None:
        give_bias(layer)
        replace(model, name, FoldedNorm(into))

    return fold


KINDS: dict[str, Callable[..., Callable[[], None]]] = {
    "folded_norm": _folded,
    "activation_quantizer": _fake,
    "pact": _pact,
}
"""Kinds of records to what makes them: `(model, name, **settings)` to a function that acts."""

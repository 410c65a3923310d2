"""What a file's weights do not say about a quantized network, and how it is built up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.quantize.clipping import Pact
from tersor.quantize.fake_quantize import CHILD, FakeQuantize, put_before

Record = dict[str, Any]


def structure(model: nn.Module) -> list[Record]:
    """The quantizers of inputs of a model, as plain data that JSON can hold.

    >>> model = nn.Sequential(nn.Linear(4, 3))
    >>> put_before(model[0], FakeQuantize(bits=4))
    >>> structure(model)
    [{'name': '0', 'kind': 'activation_quantizer', 'bits': 4, 'symmetric': False}]
    """
    found: list[Record] = []
    for name, module in model.named_modules():
        quantizer = module._modules.get(CHILD)
        if isinstance(quantizer, FakeQuantize):
            found.append({"name": name, "kind": "activation_quantizer", "bits": quantizer.bits})
            found[-1]["symmetric"] = quantizer.symmetric
        elif isinstance(quantizer, Pact):
            found.append({"name": name, "kind": "pact", "bits": quantizer.bits})
            found[-1]["signed"] = quantizer.signed
    return found


def rebuild_(model: nn.Module, records: Iterable[Mapping[str, Any]]) -> None:
    """Give a model the quantizers of these records, with any values, for `load_state_dict` to fill.

    Raises:
        ConfigError: a record is of no known kind, its settings are out of range, or the model has
            no such module, or one that has a quantizer already; then nothing is changed.
    """
    modules = dict(model.named_modules())
    made: dict[str, nn.Module] = {}
    for record in records:
        name, kind = str(record.get("name")), record.get("kind")
        where = f"structure of {name!r}"
        if name not in modules:
            raise ConfigError(f"{where}: {type(model).__name__} has no such module")
        if name in made or CHILD in modules[name]._modules:
            raise ConfigError(f"{where}: the input is quantized already")
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind {kind!r}; {did_you_mean(str(kind), KINDS)}")
        settings = {key: value for key, value in record.items() if key not in ("name", "kind")}
        try:
            made[name] = KINDS[kind](**settings)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}") from error
    for name, quantizer in made.items():
        device = next((p.device for p in modules[name].parameters()), None)
        put_before(modules[name], quantizer.to(device))


KINDS: dict[str, type[FakeQuantize] | type[Pact]] = {
    "activation_quantizer": FakeQuantize,
    "pact": Pact,
}
"""Kinds of records to the modules that they are of."""

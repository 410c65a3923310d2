"""Which layers of a network are factors, as plain data, and the same again for another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.tables import made
from tersor.factorize.factorizer import Factorizer
from tersor.factorize.factorizers import FACTORIZERS
from tersor.factorize.factors import Factors, replace
from tersor.factorize.recurrent import WeightFactors, put_, recurrent_weight, stand_in

KIND = "factors"


def structure(model: nn.Module) -> list[dict[str, Any]]:
    """One record for each layer that was factorized; with `rebuild_` a fresh model has the same.

    Raises:
        ConfigError: a factorizer is none of `FACTORIZERS`.
    """
    return [
        {
            "name": name,
            "kind": KIND,
            "method": _name_of(module.factorizer),
            "settings": dataclasses.asdict(module.factorizer),  # type: ignore[call-overload]
            "rank": list(module.rank),
        }
        for name, module in model.named_modules()
        if isinstance(module, Factors | WeightFactors)
    ]


def rebuild_(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Give a dense model the factors that these records tell of, in place; the values are any.

    Raises:
        ConfigError: a record does not fit the model; then nothing is changed.
    """
    built: dict[str, Factors | WeightFactors] = {}
    for record in records:
        try:
            name, method, settings = record["name"], record["method"], record["settings"]
            rank, kind = tuple(record["rank"]), record["kind"]
            weight = recurrent_weight(model, name)
            layer = model.get_submodule(name) if weight is None else stand_in(weight)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"structure: {dict(record)} does not fit the model ({error})"
            ) from None
        if kind != KIND or method not in FACTORIZERS or not isinstance(settings, Mapping):
            raise ConfigError(f"structure of {name!r}: kind {kind!r}, method {method!r} is unknown")
        factorizer = made("method", method, FACTORIZERS, settings)
        reason = factorizer.refuses(layer)
        if reason:
            raise ConfigError(f"structure of {name!r}: {method} {reason}")
        most = factorizer.most(layer)
        fits = len(rank) == len(most) and all(
            isinstance(r, int) and 1 <= r <= m for r, m in zip(rank, most, strict=True)
        )
        if not fits:
            raise ConfigError(
                f"structure of {name!r}: rank {list(rank)}, expected at most {list(most)}"
            )
        kind = Factors if weight is None else WeightFactors
        built[name] = kind(layer, factorizer, rank)
    for name, factors in built.items():
        if isinstance(factors, WeightFactors):
            put_(model, name, factors)
        else:
            replace(model, name, factors)


def _name_of(factorizer: Factorizer) -> str:
    for name, maker in FACTORIZERS.items():
        if isinstance(maker, type) and type(factorizer) is maker:
            return name
    raise ConfigError(
        f"structure: {type(factorizer).__name__} is none of {', '.join(FACTORIZERS)}, so a file "
        "cannot say how its layers are built"
    )

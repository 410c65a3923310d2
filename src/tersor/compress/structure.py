"""How a network differs from the one that its name builds: layers hashed, factorized, tied, ...

Weights alone do not say it. The records do, and stand in the metadata of a file; a network that is
freshly built is given the same structure by them, and then takes the file's weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from tersor import factorize, quantize, share
from tersor.core.errors import ConfigError, did_you_mean
from tersor.store import load_into, metadata, read_tensors

Record = dict[str, Any]
Model = TypeVar("Model", bound=nn.Module)

_ROOMS: dict[
    str, tuple[Callable[[nn.Module], list[Record]], Callable[[nn.Module, list[Record]], None]]
] = {
    "factorize": (factorize.structure, factorize.rebuild_),
    "share": (share.structure, share.rebuild_),
    "quantize": (quantize.structure, quantize.rebuild_),
}
"""The room that changes a structure to how it is told and how it is done again, in this order."""


def structure(model: nn.Module) -> dict[str, list[Record]]:
    """What was done to the structure of a network, as plain data for the metadata of a file.

    Returns:
        Room to records: what `restructure_` takes; {} for a network that is as it was built.

    >>> net = nn.Sequential(nn.Linear(64, 64))
    >>> _ = factorize.factorize_(net, 4)
    >>> again = restructure_(nn.Sequential(nn.Linear(64, 64)), structure(net))
    >>> again.load_state_dict(net.state_dict())
    <All keys matched successfully>
    """
    told = {room: tell(model) for room, (tell, _) in _ROOMS.items()}
    return {room: records for room, records in told.items() if records}


def restructure_(model: Model, records: Mapping[str, list[Record]]) -> Model:
    """Give a freshly built network the structure of another one, in place; values are any.

    Args:
        model: as it was before `share`, `factorize` and `quantize` changed it; what it has of the
            structure already stays.
        records: what `structure` gave.

    Raises:
        ConfigError: the records are of another network, or no records.
    """
    if not isinstance(records, Mapping):
        raise ConfigError(f"structure: {records!r}; expected a mapping, as structure() gives it")
    for room in records:
        if room not in _ROOMS:
            raise ConfigError(f"structure: unknown key {room!r}; {did_you_mean(room, _ROOMS)}")
    for room, (tell, again) in _ROOMS.items():
        there = tell(model)
        missing = [record for record in records.get(room, []) if record not in there]
        if missing:
            again(model, missing)
    return model


def load_network(model: Model, path: str | os.PathLike[str]) -> Model:
    """Read a network that `compress` wrote: its structure, then its weights.

    Args:
        model: as it is built, with any weights; changed in place and given back.
        path: a `.terse` file, or any that `load` reads, which then has no structure to tell.

    Raises:
        ConfigError: the file is of another network.
        FormatError: the file is damaged.
    """
    said = metadata(path) if Path(path).suffix == ".terse" else {}
    return load_into(
        restructure_(model, said.get("structure", {})), read_tensors(path), source=path
    )


def with_structure(given: Mapping[str, Any] | None, model: nn.Module) -> dict[str, Any] | None:
    """The metadata for a file of this network: what was given, and the structure if it has one."""
    told: Iterable[tuple[str, Any]] = [("structure", structure(model))] if structure(model) else []
    return {**(given or {}), **dict(told)} or None

"""Choices by name: what a user gives is a key of a table, or the thing itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tersor.core.errors import ConfigError, did_you_mean

T = TypeVar("T")

_GATHERED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def look_up(what: str, choice: str | T, table: Mapping[str, T]) -> T:
    """The entry of a name, or what is no name as it is.

    Args:
        what: the argument, for the message.

    Raises:
        ConfigError: the table has no such name.

    >>> look_up("rounding", "up", {"up": 1, "down": -1}), look_up("rounding", 7, {"up": 1})
    (1, 7)
    """
    if not isinstance(choice, str):
        return choice
    if choice not in table:
        raise ConfigError(f"{what} {choice!r}: {did_you_mean(choice, table)}")
    return table[choice]


def made(
    what: str, name: str, table: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]
) -> T:
    """What an entry of a table makes of some settings.

    Args:
        what: the kind of thing, for the message.
        table: name to what makes it, called with settings as keyword arguments.

    Raises:
        ConfigError: the table has no such name, or the entry no such setting; one that it needs is
            missing; or it refuses one.

    >>> made("number", "complex", {"complex": complex}, {"real": 1, "imag": 2})
    (1+2j)
    """
    check_made(what, name, table, settings)
    return table[name](**settings)


def check_made(
    what: str, name: str, table: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]
) -> None:
    """Check all that can be known without making it: the name, and the names of the settings.

    Raises:
        ConfigError: the table has no such name, or the entry no such setting; one that it needs is
            missing.
    """
    maker = look_up(what, name, table)
    known = inspect.signature(maker).parameters
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"{what} {name!r}: no setting {setting!r}; {did_you_mean(setting, known)}"
            )
    for setting, parameter in known.items():
        optional = parameter.default is not parameter.empty
        if not optional and setting not in settings and parameter.kind not in _GATHERED:
            raise ConfigError(f"{what} {name!r}: the setting {setting!r} is missing")

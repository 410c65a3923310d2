"""Choices by name: what a user gives is a key of a table, or the thing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tersor.core.errors import ConfigError, did_you_mean

T = TypeVar("T")


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

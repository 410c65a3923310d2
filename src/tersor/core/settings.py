"""Settings that are read from files or given by hand: checked when made, errors in plain words.

The description of a field is what an error says was expected, so it begins with the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tersor.core.errors import ConfigError, did_you_mean


class Settings(BaseModel):
    """Frozen values; an unknown key or a value out of range is a `ConfigError`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        _fill(self, values, where=type(self).__name__)

    @classmethod
    def read(cls, values: object, *, where: str) -> Self:
        """Settings from plain data; `where` (file and key) begins the message of an error.

        Raises:
            ConfigError: `values` is no mapping, a key is unknown or missing, a value is wrong.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: {values!r}; expected a mapping of keys to values")
        settings = cls.__new__(cls)
        _fill(settings, {str(key): value for key, value in values.items()}, where=where)
        return settings


def _fill(settings: Settings, values: dict[str, Any], *, where: str) -> None:
    try:
        BaseModel.__init__(settings, **values)
    except ValidationError as error:
        raise ConfigError(_explain(type(settings), values, error, where)) from None


def _explain(
    cls: type[BaseModel], values: Mapping[str, Any], error: ValidationError, where: str
) -> str:
    """One line a key; a key of several types has an error for each of them."""
    lines = []
    problems = error.errors(include_url=False)
    # With a key misspelt, what else is wrong is mostly its consequence.
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    for problem in unknown or problems:
        key = str(problem["loc"][0])
        expected = cls.model_fields[key].description if key in cls.model_fields else None
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key {key!r}; {did_you_mean(key, cls.model_fields)}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key!r} is missing; expected {expected}")
        else:
            lines.append(f"{where}.{key}: {values[key]!r}; expected {expected or problem['msg']}")
    return "\n".join(dict.fromkeys(lines))

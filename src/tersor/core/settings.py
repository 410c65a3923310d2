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
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error, type(self).__name__)) from None

    @classmethod
    def read(cls, values: object, *, where: str) -> Self:
        """Settings from plain data; `where` (file and key) begins the message of an error.

        Raises:
            ConfigError: `values` is no mapping, a key is unknown or missing, a value is wrong.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: {values!r}; expected a mapping of keys to values")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(_explain(cls, error, where)) from None


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        path = ".".join(
            str(part) for part in problem["loc"] if not str(part).startswith("function")
        )
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key {key!r}; {did_you_mean(key, cls.model_fields)}")
            continue
        field = cls.model_fields.get(key)
        expected = field.description if field and field.description else problem["msg"]
        if problem["type"] == "missing":
            lines.append(f"{where}: {path!r} is missing; expected {expected}")
        else:
            lines.append(f"{where}.{path}: {problem['input']!r}; expected {expected}")
    return "\n".join(dict.fromkeys(lines))

"""Every error that a user of tersor can meet, one family.

A message says where, what was wrong (the value), what is right and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TersorError(Exception):
    """Any error that tersor raises on purpose."""


class ConfigError(TersorError, ValueError):
    """An argument or a recipe asks for what cannot be done."""


class FormatError(TersorError, ValueError):
    """A file is damaged, hostile, of another kind, or of a newer version."""


class DataError(TersorError):
    """A data file is missing or is not the one that was expected."""


class TrainingError(TersorError):
    """Training cannot go on: the loss is not finite."""


class StorageError(TersorError, OSError):
    """A file could not be written; what stood there before is unchanged."""


class MissingExtraError(TersorError, ImportError):
    """A feature needs a library of an extra that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed: "
            f"pip install 'tersor[{extra}]'"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: a near miss, or all that is known.

    >>> did_you_mean("denisty", ["density", "bits"])
    "did you mean 'density'?"
    >>> did_you_mean("zzz", ["density", "bits"])
    'known: bits, density'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"

"""The version of the installed package, said once in pyproject.toml."""

from importlib.metadata import version

__version__ = version("tersor")

"""Where errors leave the command: one message on stderr and an exit code that means something."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from tersor.core.errors import ConfigError, TersorError

P = ParamSpec("P")
R = TypeVar("R")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed (data, file, training or disk); 2 wrong use (option, recipe); "
    "130 interrupted."
)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose tersor errors become a message and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TersorError as error:
            print(f"tersor: {error}", file=sys.stderr)
            raise typer.Exit(MISUSED if isinstance(error, ConfigError) else FAILED) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"tersor: {where}{error.strerror or error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt:
            print(
                "tersor: interrupted; no file was changed. The same command goes on from here",
                file=sys.stderr,
            )
            raise typer.Exit(INTERRUPTED) from None

    return run

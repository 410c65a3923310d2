"""Several processes, as `accelerate launch` starts them; a single one without it."""

from __future__ import annotations


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    try:
        from accelerate import PartialState
    except ImportError:  # the extra `train` is not there, so nothing started several
        return True
    return bool(PartialState().is_main_process)


def wait_for_everyone() -> None:
    """Go on when all processes have come here."""
    try:
        from accelerate import PartialState
    except ImportError:
        return
    PartialState().wait_for_everyone()

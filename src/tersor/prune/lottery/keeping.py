"""The folder of a search: one file for each network that was trained, written whole or not at all.

A search that was killed goes on after the last file; one that is finished only reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.core.files import write_text
from tersor.prune.lottery.record import Record


class Keeping:
    """States and records by name, in a folder; without one nothing is kept.

    Args:
        folder: made if it is not there.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error

    def state(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The state of this name: read, or computed and written.

        Raises:
            FormatError: the file is damaged.
            StorageError: the disk refuses it.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.pt"
        if path.exists():
            return load_checkpoint(path)
        state = compute()
        save_checkpoint(path, state)
        return state

    def record(self, name: str, compute: Callable[[], Record]) -> Record:
        """The record of this name: read, or computed and written.

        Raises:
            FormatError: the file is damaged.
            StorageError: the disk refuses it.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.json"
        if path.exists():
            try:
                return Record.from_dict(json.loads(path.read_text("utf-8")))
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"{path}: no record of a network ({error})") from error
        record = compute()
        write_text(path, json.dumps(record.to_dict(), indent=1) + "\n")
        return record

    def same_start(self, start: dict[str, Any], found: dict[str, Any]) -> None:
        """Check that a search which is gone on with began where this one begins.

        Raises:
            ConfigError: the weights at step 0 are other ones.
        """
        for name, tensor in found.items():
            if name not in start or not _same_bits(start[name], tensor):
                raise ConfigError(
                    f"{self.folder}: holds a search that began with other weights ({name!r}). "
                    "Use another folder, or say in decided_by what makes this one another"
                )


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(
        one.contiguous().view(-1).view(torch.uint8),
        other.contiguous().cpu().view(-1).view(torch.uint8),
    )

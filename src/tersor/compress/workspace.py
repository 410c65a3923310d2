"""The folder beside a result: its recipe, log and report, and the state of an unfinished run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.errors import StorageError
from tersor.core.files import write_text
from tersor.core.report import Report
from tersor.train import RunLog


class Workspace:
    """`<file>.run`: what a run leaves, and what it needs to go on after an interrupt.

    The state belongs to one digest (recipe, task, seed, ...): a run with another one starts afresh
    and leaves it alone. It is dropped when its own run is finished.

    Args:
        folder: made if it is not there; its parent must exist.
        digest: names the run.
        writes: whether this process may write; of several processes only one does.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, digest: str, *, writes: bool = True) -> None:
        self._folder, self._writes = folder, writes
        self._states = folder / f"state-{digest}"
        self._new = not folder.exists()
        if not writes or self._states.is_dir():
            return
        try:
            self._states.mkdir(parents=True)
            (folder / "log.jsonl").unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error

    def __str__(self) -> str:
        return str(self._folder)

    @property
    def log(self) -> RunLog:
        """The run log, one JSON object a line."""
        return RunLog(self._folder / "log.jsonl" if self._writes else None)

    @property
    def candidate(self) -> Path:
        """Where the result is written, to be read back before it takes its place."""
        return self._states / "candidate.terse"

    def checkpoint(self, step: int) -> Path:
        """Where the training of a step keeps its state."""
        return self._states / f"training-{step}.pt"

    def load(self) -> dict[str, Any] | None:
        """The state after the last step that was finished, if there is one.

        Raises:
            FormatError: it is damaged.
        """
        path = self._states / "steps.pt"
        return load_checkpoint(path) if path.exists() else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep the state after a step, whose own checkpoint is then of no more use."""
        if self._writes:
            save_checkpoint(self._states / "steps.pt", state)
            self.checkpoint(step).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a text file into the folder."""
        if self._writes:
            write_text(self._folder / name, text)

    def abandon(self) -> None:
        """Leave nothing of a run that was refused before any of its steps was finished."""
        if self._writes and not (self._states / "steps.pt").exists():
            shutil.rmtree(self._folder if self._new else self._states, ignore_errors=True)

    def finish(self, report: Report) -> None:
        """Write the report and drop the state, which is of no more use."""
        self.write("report.json", report.to_json() + "\n")
        self.write("report.md", report.to_markdown(level=1) + "\n")
        if self._writes:
            shutil.rmtree(self._states, ignore_errors=True)

"""The log of a run: one JSON object a line, appended as things happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tersor.core.errors import StorageError


class RunLog:
    """Events of a run, appended to a file; without a file nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, **event: Any) -> None:
        """Append one event with the time (seconds since 1970).

        Raises:
            StorageError: the disk is full, or refuses the write.
        """
        if self.path is None:
            return
        line = json.dumps({"time": round(time.time(), 3)} | event) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror})") from error

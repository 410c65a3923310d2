"""What training shows: a bar on a terminal, a plain line per epoch elsewhere, always on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Display:
    """One training's line or bar."""

    def __init__(self, label: str, epochs: int, bar: Progress | None, console: Console) -> None:
        self._label, self._epochs, self._bar, self._console = label, epochs, bar, console
        self._task: TaskID | None = None

    def start_epoch(self, epoch: int, steps: int, done: int) -> None:
        """Begin epoch number `epoch` (from 1) of `steps` steps, `done` of them done already."""
        if self._bar is not None:
            title = f"{self._label}  epoch {epoch}/{self._epochs}"
            if self._task is None:
                self._task = self._bar.add_task(title, note="")
            self._bar.reset(self._task, total=steps, completed=done, description=title)

    def step(self) -> None:
        """One optimizer step is done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def end_epoch(self, epoch: int, **numbers: float) -> None:
        """Show the numbers of an epoch."""
        text = "  ".join(f"{name.replace('_', ' ')} {v:.4g}" for name, v in numbers.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=text)
        else:
            self._console.print(
                f"{self._label}  epoch {epoch}/{self._epochs}  {text}",
                highlight=False,
                markup=False,
            )


@contextlib.contextmanager
def display(label: str, epochs: int, *, shown: bool) -> Iterator[Display]:
    """A display for one training of so many epochs; silent if not `shown`."""
    console = Console(stderr=True, quiet=not shown, soft_wrap=True)
    if not console.is_terminal or not shown:
        yield Display(label, epochs, None, console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as bar:
        yield Display(label, epochs, bar, console)

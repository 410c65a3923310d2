"""What a command prints: a report for people, or one JSON object."""

from __future__ import annotations

import json
import os

from rich.console import Console

from tersor.compress import Result
from tersor.core.report import Report
from tersor.train import is_main_process


def show(report: Report, as_json: bool) -> None:
    """Print a report, or all of it as one JSON object."""
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        show_text(report)


def show_text(report: Report) -> None:
    """Print a report for people."""
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width: tables are not to be cut
        console.width = 200
    console.print(report)


def show_result(result: Result, as_json: bool, *, sections: int) -> None:
    """Print the first sections of what a run has reached, and where the rest stands."""
    if not is_main_process():
        return
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    whole = result.report
    show_text(Report(whole.title, whole.summary, (), {}, whole.notes, whole.sections[:sections]))
    print(f"\nThe whole report: {result.file}.run{os.sep}report.md")

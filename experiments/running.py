"""What the experiments share: options, results that are kept and not computed again, tables.

A result is named by a hash of the settings that decide it, so an experiment that was interrupted
goes on where it was, and one whose settings changed is computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Settings = Mapping[str, Any]


def options(description: str | None, *, seeds: int = 3, **more: Any) -> argparse.Namespace:
    """The options that every experiment has; `more` are further ones with their defaults."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps; within 10 minutes")
    parser.add_argument("--data-dir", help="where the data files lie; default: TERSOR_DATA, data")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    for name, default in more.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def kept(folder: Path, settings: Settings, compute: Callable[[], Any]) -> Any:
    """The result for these settings: read from `folder/runs`, or computed and written there."""
    text = json.dumps(settings, sort_keys=True)
    path = folder / "runs" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))["result"]
    began = time.perf_counter()
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({"settings": settings, "result": result}), "utf-8")
    aside.replace(path)
    said = "  ".join(f"{key}={value}" for key, value in settings.items())
    print(f"{time.perf_counter() - began:7.1f} s  {said}", file=sys.stderr, flush=True)
    return result


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """'1.62 (1.55 to 1.70)': the mean, the least and the greatest of some runs."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the columns are those of the rows, in the order in which they come."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def put(readme: Path, name: str, text: str) -> None:
    """Put a text between the marks `<!-- name -->` and `<!-- /name -->` of a Markdown file."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = readme.read_text("utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{readme}: lacks the marks {begin} and {end}")
    head, tail = old.partition(begin)[0], old.partition(end)[2]
    readme.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", "utf-8")

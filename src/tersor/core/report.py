"""A report: what was asked and reached, what was touched, what was skipped and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Report:
    """What one transform, method, measurement or whole run did.

    Args:
        title: what was done, a few words.
        summary: label to value: asked and reached targets, totals. Units stand in the label.
        rows: one mapping column to value per thing that was touched (a tensor, a stage, an epoch).
        skipped: name of a thing that was left alone, to the reason.
        notes: sentences that a reader must not miss.
        sections: reports of the parts.
    """

    title: str
    summary: Mapping[str, Value] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Value]] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    sections: Sequence[Report] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data; empty parts are left out."""
        parts: dict[str, Any] = {
            "summary": dict(self.summary),
            "rows": [dict(row) for row in self.rows],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "sections": [section.to_dict() for section in self.sections],
        }
        return {"title": self.title} | {key: part for key, part in parts.items() if part}

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave these parts of."""
        sections = [cls.from_dict(section) for section in parts.get("sections", ())]
        return cls(**(dict(parts) | {"sections": sections}))

    def to_json(self) -> str:
        """All of it as JSON, indented."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self, level: int = 2) -> str:
        """All of it as Markdown with pipe tables; `level` is the depth of the first heading.

        >>> print(Report("Prune", {"density": 0.08}, [{"name": "fc1", "kept": 1000}]).to_markdown())
        ## Prune
        <BLANKLINE>
        - density: 0.08
        <BLANKLINE>
        | name | kept |
        | --- | ---: |
        | fc1 | 1,000 |
        """
        blocks = ["#" * level + " " + self.title]
        if self.summary:
            blocks.append("\n".join(f"- {key}: {show(v)}" for key, v in self.summary.items()))
        if self.rows:
            columns = self._columns()
            blocks.append(
                "\n".join(
                    [
                        _pipes(columns),
                        _pipes(["---:" if self._numeric(c) else "---" for c in columns]),
                        *(_pipes([show(row.get(c)) for c in columns]) for row in self.rows),
                    ]
                )
            )
        if self.skipped:
            blocks.append(
                "Skipped:\n\n" + "\n".join(f"- {n}: {r}" for n, r in self.skipped.items())
            )
        blocks.extend(self.notes)
        blocks.extend(section.to_markdown(level + 1) for section in self.sections)
        return "\n\n".join(blocks)

    def __rich__(self) -> Group:
        """All of it for a terminal."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(self.title, style="bold")]
        if self.summary:
            grid = Table.grid(padding=(0, 2))
            for key, value in self.summary.items():
                grid.add_row(escape(key), escape(show(value)))
            parts.append(grid)
        if self.rows:
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
            for place, column in enumerate(self._columns()):
                if self._numeric(column):  # numbers are narrow: a word of the heading a line
                    heading = escape(column.replace("_", " ").replace(" ", "\n"))
                    table.add_column(heading, justify="right")
                else:
                    table.add_column(escape(column), no_wrap=place == 0)
            for row in self.rows:
                cells = [show(row.get(column), digits=3) for column in self._columns()]
                table.add_row(*map(escape, cells))
            parts.append(table)
        parts.extend(Text(f"skipped {n}: {r}", style="dim") for n, r in self.skipped.items())
        parts.extend(Text(note) for note in self.notes)
        for section in self.sections:
            parts += [Text(""), section]
        return Group(*parts)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def _numeric(self, column: str) -> bool:
        values = [row.get(column) for row in self.rows]
        return all(value is None or isinstance(value, int | float) for value in values)


def show(value: Value, *, digits: int = 4) -> str:
    """A value as a person reads it: thousands separated, floats to so many significant digits.

    >>> [show(v) for v in (431080, 0.0800004, 40.129, 1.58, None, True)]
    ['431,080', '0.08', '40.13', '1.58', '-', 'yes']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return value


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

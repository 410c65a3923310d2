import io
import json

import pytest
from rich.console import Console

from tersor.core import Report
from tersor.core.report import show


@pytest.fixture
def report() -> Report:
    return Report(
        "Pruning [all]",
        {"density asked": 0.08, "kept": 21_329, "best": None},
        [
            {"name": "fc1.weight", "kept": 18_816, "density": 0.08},
            {"name": "a|b", "kept": 30, "note": "[bold] small"},
        ],
        {"fc1.bias": "a bias"},
        ["Nothing was removed."],
        [Report("Part", {"seconds": 1.5})],
    )


def on_a_terminal(report: Report) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(report)
    return console.file.getvalue()


def test_a_dict_holds_all_of_it_and_leaves_out_what_is_empty(report):
    assert report.to_dict() == {
        "title": "Pruning [all]",
        "summary": {"density asked": 0.08, "kept": 21_329, "best": None},
        "rows": [
            {"name": "fc1.weight", "kept": 18_816, "density": 0.08},
            {"name": "a|b", "kept": 30, "note": "[bold] small"},
        ],
        "skipped": {"fc1.bias": "a bias"},
        "notes": ["Nothing was removed."],
        "sections": [{"title": "Part", "summary": {"seconds": 1.5}}],
    }
    assert Report("Empty").to_dict() == {"title": "Empty"}


def test_json_is_the_dict(report):
    assert json.loads(report.to_json()) == report.to_dict()


def test_markdown_has_aligned_columns_and_escaped_pipes(report):
    assert report.to_markdown().split("\n") == [
        "## Pruning [all]",
        "",
        "- density asked: 0.08",
        "- kept: 21,329",
        "- best: -",
        "",
        "| name | kept | density | note |",
        "| --- | ---: | ---: | --- |",
        "| fc1.weight | 18,816 | 0.08 | - |",
        "| a\\|b | 30 | - | [bold] small |",
        "",
        "Skipped:",
        "",
        "- fc1.bias: a bias",
        "",
        "Nothing was removed.",
        "",
        "### Part",
        "",
        "- seconds: 1.5",
    ]


def test_a_terminal_shows_all_of_it_and_takes_no_word_for_markup(report):
    text = on_a_terminal(report)
    lines = [line.split() for line in text.splitlines()]
    assert ["fc1.weight", "18,816", "0.08", "-"] in lines
    assert ["a|b", "30", "-", "[bold]", "small"] in lines
    for part in ("Pruning [all]", "21,329", "skipped fc1.bias: a bias", "Nothing was removed."):
        assert part in text
    assert text.index("Nothing was removed.") < text.index("Part")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1_066_440, "1,066,440"),
        (-1234, "-1,234"),
        (True, "yes"),
        (False, "no"),
        (None, "-"),
        (0.0, "0"),
        (12345.6, "12,346"),
        (1234.56, "1,235"),
        (0.00012346, "0.0001235"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ("fc1", "fc1"),
    ],
)
def test_values_are_shown_as_a_person_reads_them(value, text):
    assert show(value) == text

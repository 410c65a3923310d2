from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tersor.cli.lottery import lottery_command
from tersor.core.masks import MaskSet

SMALL = ["--rounds", "2", "--steps", "20", "--out", "found"]


@pytest.fixture
def lottery(tmp_path, monkeypatch):
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSOR_DATA", raising=False)
    app = typer.Typer()
    app.command(name="lottery")(lottery_command)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return run


def test_it_prints_a_table_and_leaves_report_and_masks(lottery, tmp_path):
    shown = lottery(*SMALL)
    folder = tmp_path / "found"
    assert "Lottery tickets: lenet-300-100 on digits" in shown.stdout
    assert "early stop" in shown.stderr
    report = json.loads((folder / "report.json").read_text())
    assert "| level | density % |" in (folder / "report.md").read_text()
    rows = report["rows"]
    # 19,200 + 30,000 weights lose a fifth, 1,000 a tenth.
    assert [row["kept"] for row in rows] == [50_200, 40_260, 32_298]
    assert rows[0]["density %"] == 100
    assert "random-mask: test %" not in rows[0]
    assert {"random-reinit: test %", "random-mask: step"} <= set(rows[2])
    for level, row in enumerate(rows):
        assert MaskSet.load(folder / f"masks-0{level}.pt").kept == row["kept"]
    assert len(report["sections"][0]["rows"]) == 3 + 2 * 2


def test_json_is_one_object_on_stdout_and_a_second_run_only_reads(lottery):
    first = json.loads(lottery(*SMALL, "--controls", "none", "--json").stdout)
    assert first["folder"] == "found"
    again = lottery(*SMALL, "--controls", "none", "--json")
    assert json.loads(again.stdout) == first
    other = json.loads(lottery(*SMALL, "--controls", "none", "--seed", "1", "--json").stdout)
    assert other["rows"] != first["rows"]


def test_strategies_and_rewinding_reach_the_search(lottery):
    plan = [*SMALL, "--controls", "none", "--json", "--rewind", "5"]
    ways = (["--strategy", "continue"], ["--strategy", "fine-tune"], ["--one-shot"], [])
    reports = [json.loads(lottery(*plan, *way).stdout) for way in ways]
    assert [report["summary"]["strategy"] for report in reports] == [
        "continue",
        "fine-tune",
        "one-shot, rewind",
        "rewind",
    ]
    assert all(report["summary"]["rewound to step"] == 5 for report in reports)
    assert reports[1]["rows"][1]["early-stop step"] > 20  # it goes on where the dense one ended
    assert len({json.dumps(report["rows"]) for report in reports}) > 2


INTERRUPTED = """
import os, signal, typer
from tersor.cli import lottery
from tersor.cli.lottery import lottery_command

# A process in the background of a shell is started with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
shown = lottery._progress

def progress(record):
    shown(record)
    if record.level == 1:
        os.kill(os.getpid(), signal.SIGINT)

lottery._progress = progress
app = typer.Typer()
app.command()(lottery_command)
app()
"""


def test_after_an_interrupt_the_same_command_goes_on(lottery, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "The same command goes on from here" in done.stderr
    assert not (tmp_path / "found" / "report.json").exists()
    (there,) = (tmp_path / "found").glob("tickets-*")
    before = {p.name: p.stat().st_mtime_ns for p in there.iterdir()}
    assert {"start.pt", "level-00.pt", "level-01.pt"} == set(before)
    resumed = json.loads(lottery(*SMALL, "--json").stdout)
    assert all((there / name).stat().st_mtime_ns == time for name, time in before.items())
    straight = json.loads(lottery(*SMALL[:-1], "straight", "--json").stdout)
    assert resumed["rows"] == straight["rows"]
    files = {p.name: p.read_bytes() for p in there.iterdir()}
    (other,) = (tmp_path / "straight").glob("tickets-*")
    assert files == {p.name: p.read_bytes() for p in other.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--task", "digit"], 2, "did you mean 'digits'"),
        (["--drop-fraction", "1.5"], 2, "drop_fraction: 1.5; expected 0 < fraction < 1"),
        (["--strategy", "reset"], 2, "strategy: 'reset'; expected one of: rewind"),
        (["--controls", "random"], 2, "expected a list of: random-mask"),
        (["--rewind", "500"], 2, "rewind_step: 500; expected a step before `steps`"),
        (["--optimizer", "adma"], 2, "optimizer: 'adma'; expected one of: adam"),
        (["--batch-size", "0"], 2, "batch_size 0"),
        (["--task", "mnist"], 1, "train-images-idx3-ubyte.gz"),
        (["--out", "file/x"], 1, "file/x: cannot be made"),
    ],
)
def test_wrong_use_gives_one_message_and_a_telling_exit_code(
    arguments, code, message, lottery, tmp_path
):
    (tmp_path / "file").write_text("no folder")
    result = lottery(*arguments, code=code)
    assert message in result.stderr
    assert "Traceback" not in result.output

import json
import re

import pytest
import safetensors.torch
import torch
from rich.console import Console
from typer.testing import CliRunner

from tersor.cli import packing
from tersor.cli.main import app

LOSSLESS = "Lossless: every tensor has been read back and compared, bit for bit."


@pytest.fixture
def tersor(tmp_path, monkeypatch):
    """Run the command in a folder of its own, which has a folder `model` and a tuned one."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = {"a": torch.randn(60, 20), "b": torch.arange(5)}
    for name, tensors in (("model", state), ("tuned", state | {"a": state["a"] * 1.0001})):
        (tmp_path / name).mkdir()
        safetensors.torch.save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return run


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_packed_verified_and_unpacked(tersor, tmp_path):
    assert LOSSLESS in tersor("pack", "model", "x.terse").stdout
    assert "every tensor decodes" in tersor("verify", "x.terse").stdout
    assert "config.json" in tersor("unpack", "x.terse", "back").stdout
    assert files_of(tmp_path / "back") == files_of(tmp_path / "model")


def test_what_was_not_compared_is_not_called_lossless(tersor):
    assert "Lossless" not in tersor("pack", "model", "x.terse", "--no-verify").stdout
    assert "notes" not in json.loads(
        tersor("pack", "model", "x.terse", "--no-verify", "--json").stdout
    )
    assert json.loads(tersor("pack", "model", "x.terse", "--json").stdout)["notes"] == [LOSSLESS]


def test_a_difference_needs_its_base_everywhere(tersor, tmp_path):
    numbers = json.loads(tersor("pack", "tuned", "x.terse", "--base", "model", "--json").stdout)
    assert any("difference" in row["codec"] for row in numbers["rows"])
    for command in (["verify", "x.terse"], ["unpack", "x.terse", "back"]):
        result = tersor(*command, code=1)
        assert re.search(r"x\.terse.*base", result.stderr.replace("\n", " "))
        tersor(*command, "--base", "model")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "tuned")


def test_a_damaged_file_fails_with_the_name_of_the_tensor(tersor, tmp_path):
    tersor("pack", "model", "x.terse")
    data = bytearray((tmp_path / "x.terse").read_bytes())
    data[40] ^= 1
    (tmp_path / "x.terse").write_bytes(data)
    assert "tensor 'b'" in tersor("verify", "x.terse", code=1).stderr


def test_a_key_says_where_in_a_checkpoint_the_tensors_are(tersor, tmp_path):
    torch.save({"ema": {"a": torch.ones(2)}, "model": {}}, tmp_path / "a.pt")
    tersor("pack", "a.pt", "x.terse", "--key", "ema", "--fast")
    assert "has no 'x'" in tersor("pack", "a.pt", "x.terse", "--key", "x", code=2).stderr


def test_a_terminal_sees_a_bar_that_fills(monkeypatch, capsys):
    monkeypatch.setattr(packing, "Console", lambda **_: Console(force_terminal=True, width=90))
    with packing._bar("pack model") as watch:
        watch("a[0]", 0.25)
        watch("b", 1.0)
    text = capsys.readouterr().out
    assert "pack model" in text
    assert "100%" in text


@pytest.mark.parametrize("command", ["pack", "unpack", "verify"])
def test_help_names_the_options(command, tersor):
    text = tersor(command, "--help").stdout
    assert "--base" in text
    assert "--json" in text

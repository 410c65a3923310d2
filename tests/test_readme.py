"""What README.md shows is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tersor

README = Path(__file__).parents[1] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_ten_lines_run_on_a_module_and_loaders_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 20, generator=generator)
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    torch.manual_seed(0)
    names = {
        "model": nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2)),
        "train_loader": DataLoader(data, batch_size=32, shuffle=True),
        "validation_loader": DataLoader(data, batch_size=256),
        "test_loader": DataLoader(data, batch_size=256),
    }
    own, fast = python_blocks()
    exec(compile(own, str(README), "exec"), names)
    assert re.search(r"\d\.\dx smaller, error .* %", capsys.readouterr().out)
    result = names["result"]
    assert isinstance(result, tersor.Result)
    assert result.file_bytes == Path("mine.terse").stat().st_size
    assert result.error < 20
    names["example_batch"] = inputs[:16]
    exec(compile(fast, str(README), "exec"), names)
    assert "| layer | kind |" in capsys.readouterr().out
    with torch.no_grad():
        torch.testing.assert_close(names["fast"](inputs), names["model"].eval()(inputs))


def test_the_two_commands_install_and_do_what_ci_expects_of_them():
    commands = re.findall(r"^pip install .*$", README.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("&& tersor compress")
    assert commands[1].endswith("&& pytest")


def test_all_that_is_public_is_there():
    for name in tersor.__all__:
        assert hasattr(tersor, name)
    assert all(name in tersor.__all__ for name in ("save", "load", "inspect", "FormatError"))

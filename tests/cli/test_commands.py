from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from tersor import _native
from tersor.cli.main import app
from tersor.store import load, save

RECIPE = """
batch_size: 64
steps:
  - train: {epochs: 2, learning_rate: 0.01}
  - prune: {density: 0.1, allocation: lamp, epochs: 2, learning_rate: 0.01}
  - quantize: {bits: 3, epochs: 1, learning_rate: 0.0001}
"""


@pytest.fixture
def tersor(tmp_path, monkeypatch):
    """Run the command in a folder of its own; the recipe lies there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSOR_DATA", raising=False)
    (tmp_path / "quick.yaml").write_text(RECIPE)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A folder with the result of one run, and what --json printed."""
    folder = tmp_path_factory.mktemp("compressed")
    (folder / "quick.yaml").write_text(RECIPE)
    command = [sys.executable, "-c", "from tersor.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "compress", "--recipe", "quick.yaml", "--seed", "3", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, done


def test_json_is_one_object_on_stdout_and_progress_goes_to_stderr(compressed):
    folder, done = compressed
    numbers = json.loads(done.stdout)
    file = folder / "digits-lenet-300-100.terse"
    assert numbers["file"] == file.name
    assert numbers["file_bytes"] == file.stat().st_size
    assert numbers["dense_bytes"] == 202_440
    assert numbers["ratio"] == pytest.approx(202_440 / file.stat().st_size, abs=1e-3)
    assert 0 <= numbers["error"] < 20
    assert 0 <= numbers["reference_error"] < 20
    assert numbers["seed"] == 3
    assert numbers["seconds"] > 0
    assert re.search(r"train  epoch 2/2  loss", done.stderr)


def test_evaluate_finds_the_error_that_compress_reported(compressed, tersor):
    folder, done = compressed
    file = str(folder / "digits-lenet-300-100.terse")
    numbers = json.loads(tersor("evaluate", file, "--json").stdout)
    assert numbers["error"] == json.loads(done.stdout)["error"]
    assert numbers["samples"] == 300
    assert numbers["macs"] == 64 * 300 + 300 * 100 + 100 * 10
    assert numbers["effective_macs"] == round(0.1 * numbers["macs"])
    assert 0 < numbers["latency_p50_ms"] <= numbers["latency_p99_ms"]
    assert re.search(r"error_percent +\d", tersor("evaluate", file).stdout)


def test_inspect_accounts_for_every_byte(compressed, tersor):
    file = compressed[0] / "digits-lenet-300-100.terse"
    report = json.loads(tersor("inspect", str(file), "--json").stdout)
    stored = sum(row["stored_bytes"] for row in report["rows"])
    assert stored + report["summary"]["header bytes"] == file.stat().st_size
    assert "fc1.weight" in tersor("inspect", str(file)).stdout
    assert "P+Q+H %" not in tersor("inspect", str(file)).stdout
    [paper] = json.loads(tersor("inspect", str(file), "--paper", "--json").stdout)["sections"]
    assert paper["summary"]["file bytes"] == file.stat().st_size
    assert paper["summary"]["paper bytes, P+Q+H"] < paper["summary"]["paper bytes, P+Q"]


def test_compress_prints_steps_layers_and_where_the_report_is(tersor, tmp_path):
    text = tersor("compress", "--recipe", "quick.yaml", "--out", "small.terse").stdout
    for expected in ("ratio", "error %", "quantize", "fc1.weight", "small.terse.run"):
        assert expected in text
    assert (tmp_path / "small.terse.run" / "report.md").exists()


def test_a_trained_network_is_compressed_without_training_it_again(tersor, tmp_path):
    dense = json.loads(tersor("train", "--recipe", "quick.yaml", "--json").stdout)
    assert dense["file"] == "digits-lenet-300-100-dense.terse"
    assert dense["error"] == dense["reference_error"]
    small = tersor("compress", "--recipe", "quick.yaml", "--weights", dense["file"], "--json")
    numbers = json.loads(small.stdout)
    assert numbers["reference_error"] == dense["error"]
    assert "train  epoch" not in small.stderr


def test_pack_and_unpack_keep_every_bit(tersor, tmp_path):
    state = {"a": torch.tensor([0.0, -0.0, float("nan")]), "b": torch.arange(5)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    tersor("pack", "a.safetensors", "a.terse")
    tersor("unpack", "a.terse", "b.safetensors")
    tersor("unpack", "a.terse", "b.pt")
    for again in (
        safetensors.torch.load_file(tmp_path / "b.safetensors"),
        torch.load(tmp_path / "b.pt", weights_only=True),
        load(tmp_path / "a.terse"),
    ):
        assert torch.equal(again["a"].view(torch.int32), state["a"].view(torch.int32))
        assert torch.equal(again["b"], state["b"])


def test_doctor_names_what_is_there_and_what_is_not(tersor):
    report = json.loads(tersor("doctor", "--json").stdout)
    states = {row["what"]: row["state"] for row in report["rows"]}
    assert states["C++ extension"] == states["torch"] == states["task digits"] == "ok"
    assert states["task mnist"] == "missing"
    assert any("train-images-idx3-ubyte.gz" in note for note in report["notes"])
    kernels = next(row for row in report["rows"] if row["what"] == "kernels")
    assert kernels["found"].partition(",")[0] in _native.isa_names()


def test_doctor_explains_a_torchvision_that_does_not_load(tersor, tmp_path, monkeypatch):
    broken = tmp_path / "torchvision.py"
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    report = json.loads(tersor("doctor", "--json").stdout)
    row = next(row for row in report["rows"] if row["what"] == "torchvision")
    assert row["state"] == "trap"
    assert row["found"] == "operator torchvision::nms does not exist"
    assert any("another torch" in note for note in report["notes"])


def test_doctor_fails_where_the_extension_does_not_load(tersor, monkeypatch):
    monkeypatch.setitem(sys.modules, "tersor._native", None)
    report = json.loads(tersor("doctor", "--json", code=1).stdout)
    states = {row["what"]: row["state"] for row in report["rows"]}
    assert states["C++ extension"] == "broken"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compress", "--task", "digit"], 2, r"unknown task 'digit'; did you mean 'digits'"),
        (["compress", "--model", "lenet-6"], 2, r"'lenet-6'.*did you mean 'lenet-5'"),
        (["compress", "--model", "lenet-5"], 2, r"at least 16 x 16"),
        (["compress", "--recipe", "bad.yaml"], 2, r"bad\.yaml, prune\.density: 2\.0; expected"),
        (["compress", "--recipe", "no.yaml"], 2, r"'no\.yaml' cannot be read"),
        (["compress", "--recipe", "trained.yaml"], 2, r"no step 'train'.*--weights"),
        (["compress", "--out", "no/x.terse"], 1, r"no/x\.terse: expected the name of a file"),
        (["compress", "--task", "mnist"], 1, r"MNIST: 'train-images-idx3-ubyte\.gz' is not in"),
        (["compress", "--weights", "no.terse"], 1, r"no\.terse: No such file"),
        (["evaluate", "junk.terse"], 1, r"junk\.terse.*not a \.terse file"),
        (["evaluate", "no.terse"], 1, r"no\.terse: No such file"),
        (["inspect", "junk.terse"], 1, r"junk\.terse.*not a \.terse file"),
        (["pack", "junk.pt", "x.terse"], 1, r"junk\.pt"),
        (["pack", "junk.npz", "x.terse"], 2, r"junk\.npz.*\.safetensors"),
        (["unpack", "junk.terse", "x.pt"], 1, r"junk\.terse"),
        (["compress", "--nonsense"], 2, r"--nonsense"),
    ],
)
def test_wrong_use_gives_one_message_and_a_telling_exit_code(
    arguments, code, message, tersor, tmp_path
):
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("0.1, alloc", "2.0, alloc"))
    (tmp_path / "trained.yaml").write_text("steps: [{prune: {density: 0.5}}]")
    for name in ("junk.terse", "junk.pt", "junk.npz"):
        (tmp_path / name).write_bytes(b"this is no network at all")
    result = tersor(*arguments, code=code)
    assert re.search(message, result.stderr.replace("\n", " "))
    assert "Traceback" not in result.output
    assert not (tmp_path / "x.terse").exists()


def test_a_file_without_names_needs_them_said(tersor, tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    result = tersor("evaluate", "a.safetensors", code=2)
    assert "does not say for which task it is; give --task" in result.stderr


def test_a_network_of_another_shape_is_refused_by_name(tersor, tmp_path):
    safetensors.torch.save_file({"fc1.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    result = tersor(
        "evaluate", "a.safetensors", "--task", "digits", "--model", "lenet-300-100", code=2
    )
    assert "a.safetensors: " in result.stderr
    assert "fc1" in result.stderr


INTERRUPTED = """
import os
import signal
from tersor.cli.main import main
from tersor.train.progress import Display

shown = Display.end_epoch

def end_epoch(self, epoch, **numbers):
    shown(self, epoch, **numbers)
    os.kill(os.getpid(), signal.SIGINT)

Display.end_epoch = end_epoch
main()
"""


def test_an_interrupt_says_how_to_go_on_and_exits_with_130(tmp_path):
    (tmp_path / "quick.yaml").write_text(RECIPE)
    arguments = ["compress", "--recipe", "quick.yaml", "--out", "x.terse"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "interrupted; no file was changed. The same command goes on from here" in done.stderr
    assert "train  epoch 2/2" not in done.stderr
    assert not (tmp_path / "x.terse").exists()


@pytest.mark.parametrize(
    "command", ["compress", "train", "evaluate", "inspect", "pack", "unpack", "doctor"]
)
def test_help_of_every_command_names_its_options(command, tersor):
    text = tersor(command, "--help").stdout
    assert "--json" in text
    assert "Usage:" in text


def test_inspect_tells_what_other_codecs_would_have_taken(tmp_path, tersor):
    path = tmp_path / "x.terse"
    weight = torch.tensor([0.0, 0.0, 0.5, -0.5]).repeat(50, 3)
    save({"w": weight}, path)
    result = tersor("inspect", str(path), "--codecs", "--json")
    (row,) = json.loads(result.stdout)["rows"]
    assert row["entropy_bits"] == pytest.approx(1.5)
    assert row["raw bytes"] > row["packed bytes"] > row["stored_bytes"]
    assert row["stored_bytes"] == row["by context bytes"]

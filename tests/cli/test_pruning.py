from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tersor.cli.main import app
from tersor.core.seeding import seed_everything
from tersor.store import load, save
from tersor.tasks import build_model

NAMES = {"task": "digits", "model": "lenet-300-100"}
SIZES = {"fc1.weight": 19_200, "fc2.weight": 30_000, "fc3.weight": 1_000}


@pytest.fixture
def prune(tmp_path, monkeypatch):
    """Run `tersor prune` in a folder of its own, where net.terse is; its JSON is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSOR_DATA", raising=False)
    seed_everything(0, "init")
    save(build_model("lenet-300-100", input_shape=(1, 8, 8)), "net.terse", metadata=NAMES)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["prune", *arguments, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


def kept(file: str) -> dict[str, int]:
    return {n: int((t != 0).sum()) for n, t in load(file).items() if n in SIZES}


def test_a_file_is_pruned_at_once_and_says_what_it_is_afterwards(prune):
    found = prune("net.terse", "--density", "0.2", "--allocation", "lamp")
    assert found["file"] == "digits-lenet-300-100-pruned.terse"
    assert sum(kept(found["file"]).values()) == round(0.2 * 50_200)
    assert json.loads(CliRunner().invoke(app, ["inspect", found["file"], "--json"]).stdout)
    # as it is read again without --task and --model, the file says them
    again = prune(
        found["file"], "--density", "0.1", "--allocation", "lamp", "--out", "smaller.terse"
    )
    assert sum(kept(again["file"]).values()) == round(0.1 * 50_200)


def test_a_density_for_each_of_some_layers(prune):
    prune("net.terse", "--density", "fc1=0.1, fc2=0.05", "--out", "a.terse")
    assert kept("a.terse") == {"fc1.weight": 1_920, "fc2.weight": 1_500, "fc3.weight": 1_000}


def test_criterion_pattern_allocation_and_rounds_are_those_that_were_asked_for(prune):
    prune("net.terse", "--pattern", "2:4", "--out", "a.terse")
    assert kept("a.terse") == {name: size // 2 for name, size in SIZES.items()}
    prune(
        "net.terse", "--density", "0.5", "--pattern", "row", "--ignore", "fc3", "--out", "b.terse"
    )
    rows = (load("b.terse")["fc2.weight"] != 0).any(1)
    assert int((load("b.terse")["fc2.weight"] != 0).sum()) == 300 * int(rows.sum())
    options = ("--criterion", "snip", "--allocation", "erk", "--density", "0.1")
    prune("net.terse", *options, "--out", "c.terse")
    prune("net.terse", *options, "--rounds", "4", "--schedule", "geometric", "--out", "d.terse")
    assert kept("c.terse") == kept("d.terse")
    assert not torch.equal(load("c.terse")["fc1.weight"], load("d.terse")["fc1.weight"])


def test_a_fresh_network_is_pruned_before_it_is_trained_and_the_bytes_repeat(prune, tmp_path):
    options = ("--criterion", "snip", "--density", "0.1", "--schedule", "one_shot")
    training = ("--epochs", "2", "--learning-rate", "0.01", "--batch-size", "64", "--seed", "5")
    found = prune(*options, *training, "--out", "a.terse")
    prune(*options, *training, "--out", "b.terse")
    assert sum(kept("a.terse").values()) == round(0.1 * 50_200)
    assert found["error"] < 30 < found["reference_error"]
    assert (tmp_path / "a.terse").read_bytes() == (tmp_path / "b.terse").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--density", "2"], "prune.density: 2.0; expected 0 < density <= 1"),
        (["--density", "low"], "--density 'low': expected a number as 0.1, or one for each"),
        (["--density", "fc1=x"], "--density 'fc1=x': expected a number"),
        (["--density", "fc9=0.1"], "selector 'fc9': matches no weight"),
        (["--density", "0.1", "--criterion", "snipp"], "prune.criterion: 'snipp'; expected one of"),
        (["--density", "0.1", "--pattern", "4:2"], "prune.pattern: '4:2'; expected element, row"),
        (["--pattern", "row"], "density: is missing; expected 0 < density <= 1, or a pattern N:M"),
        (["--density", "0.1", "--repair", "glue"], "prune.repair: 'glue'; expected one of"),
    ],
)
def test_wrong_use_is_named_and_nothing_is_written(prune, tmp_path, options, message):
    assert message in prune("net.terse", *options, code=2)
    assert not list(tmp_path.glob("*pruned.terse"))


def test_a_file_that_does_not_say_what_it_is_needs_to_be_told(prune, tmp_path):
    save(build_model("lenet-300-100", input_shape=(1, 8, 8)), tmp_path / "bare.terse")
    assert "does not say for which task" in prune("bare.terse", "--density", "0.5", code=2)
    prune("bare.terse", "--density", "0.5", "--task", "digits", "--model", "lenet-300-100")

"""`tersor quantize`, `share` and `factorize`: one step, and the file that it writes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tersor.cli.main import app
from tersor.core.seeding import seed_everything
from tersor.store import load, save
from tersor.tasks import build_model

NAMES = {"task": "digits", "model": "lenet-300-100"}


@pytest.fixture
def tersor(tmp_path, monkeypatch):
    """Run a command in a folder of its own, where net.terse is; its JSON is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSOR_DATA", raising=False)
    seed_everything(0, "init")
    save(build_model("lenet-300-100", input_shape=(1, 8, 8)), "net.terse", metadata=NAMES)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


def test_quantize_with_bits_for_each_layer_and_further_settings(tersor):
    found = tersor("quantize", "net.terse", "--bits", "fc1=2,fc2=4", "--set", "init=density")
    assert found["file"] == "digits-lenet-300-100-quantized.terse"
    state = load(found["file"])
    sizes = [len(state[f"fc{n}.weight"].unique()) for n in (1, 2, 3)]
    assert sizes[:2] == [4, 16]
    assert sizes[2] > 900


def test_quantize_by_a_budget_with_what_stands_before_and_after_it(tersor):
    options = ("--method", "affine", "--budget", "3.5", "--widths", "2,4,8", "--equalize")
    found = tersor("quantize", "net.terse", *options, "--correct-biases", "--batches", "1")
    parts = {section["title"]: section for section in found["report"]["sections"]}
    assert {"Cross-layer equalization", "Bias correction"} <= set(parts)
    rows = parts["Mixed precision"]["rows"]
    assert {row["bits"] for row in rows} <= {2, 4, 8}
    assert parts["Mixed precision"]["summary"]["bits a weight"] <= 3.5


@pytest.mark.parametrize("command", ["prune", "quantize", "share", "factorize"])
def test_all_one_step_commands_have_the_same_options(command):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("select", "ignore", "optimizer", "learning-rate", "task", "model", "batch-size"):
        assert f"--{option}" in shown
    for option in ("out", "data-dir", "seed", "json", "epochs"):
        assert f"--{option}" in shown
    assert "[file]" in shown.lower()
    default = "0.0001" if command == "quantize" else "0.001"
    assert f"[default: {default}]" in " ".join(shown.split())


def test_quantize_to_integers_with_activations_and_the_file_is_read_as_it_is(tersor):
    options = ("--method", "affine", "--bits", "8", "--set", "granularity=tensor")
    found = tersor("quantize", "net.terse", *options, "--activations", "8", "--out", "int8.terse")
    assert len(load("int8.terse")["fc1.weight"].unique()) <= 255
    again = tersor("evaluate", "int8.terse")
    assert again["error"] == pytest.approx(found["error"])


def test_quantize_to_subvectors(tersor):
    settings = ("--method", "product", "--set", "k=16", "--set", "dimension=4")
    found = tersor("quantize", "net.terse", *settings)
    assert len(load(found["file"])["fc1.weight"].view(-1, 4).unique(dim=0)) <= 16


def test_share_hashes_a_fresh_network_and_trains_it(tersor):
    settings = ("--set", "density=0.125", "--set", "start=fresh")
    found = tersor("share", *settings, "--epochs", "3", "--learning-rate", "0.005")
    assert found["file"] == "digits-lenet-300-100-shared.terse"
    assert load(found["file"])["fc1.buckets"].numel() == 2_400
    assert found["error"] < 40
    assert tersor("evaluate", found["file"])["error"] == pytest.approx(found["error"])
    quantized = tersor("quantize", found["file"], "--bits", "4", "--out", "both.terse")
    assert quantized["file_bytes"] < found["file_bytes"]
    assert len(load("both.terse")["fc1.buckets"].unique()) <= 16


def test_factorize_and_then_bench_and_prune_the_factors(tersor):
    found = tersor("factorize", "net.terse", "--set", "budget=0.3")
    assert found["file"] == "digits-lenet-300-100-factorized.terse"
    assert "fc1.0.weight" in load(found["file"])
    assert found["file_bytes"] < 0.5 * found["dense_bytes"]
    timed = tersor(
        "bench", found["file"], "--runs", "3", "--batch-size", "1", "--no-memory", "--no-energy"
    )
    assert "fc1.1" in json.dumps(timed)
    pruned = tersor("prune", found["file"], "--density", "0.5", "--out", "pruned.terse")
    assert pruned["file_bytes"] < found["file_bytes"]


def test_a_hashed_network_is_timed_with_plain_layers(tersor):
    shared = tersor("share", "net.terse", "--set", "density=0.01")
    timed = tersor("bench", shared["file"], "--runs", "3", "--batch-size", "1", "--no-energy")
    assert "fc1" in json.dumps(timed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "net.terse", "--bits", "many"], "--bits 'many': expected a number as 4, or"),
        (["quantize", "net.terse", "--set", "init"], "--set init: expected KEY=VALUE"),
        (["quantize", "net.terse", "--set", "a=1", "--set", "a=2"], "'a' is given twice"),
        (["quantize", "net.terse", "--set", "a=[1"], "--set a=[1: '[1' is no value"),
        (["quantize", "net.terse", "--method", "afine"], "quantize.method: 'afine'; expected one"),
        (
            ["quantize", "net.terse", "--set", "inti=exact"],
            "no setting 'inti'; did you mean 'init'",
        ),
        (["share", "net.terse"], "method 'hash': the setting 'density' is missing"),
        (["factorize", "net.terse", "--set", "rank=0"], "rank: 0; expected a whole number"),
        (["factorize", "net.terse", "--select", "fc9"], "selector 'fc9': matches no weight"),
    ],
)
def test_wrong_use_is_named_and_nothing_is_written(tersor, tmp_path, arguments, message):
    assert message in tersor(*arguments, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["net.terse"]

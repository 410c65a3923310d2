from __future__ import annotations

import copy
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

import tersor
from tersor.cli import bench_parts
from tersor.cli.main import app
from tersor.core.seeding import seed_everything
from tersor.prune import prune_
from tersor.run import deploy, plan_of, read_plan
from tersor.store import load, save
from tersor.tasks import build_model

MACS = 64 * 300 + 300 * 100 + 100 * 10
QUICK = ("--runs", "3", "--no-memory")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network for digits of which one weight in twenty is left."""
    seed_everything(0, "test")
    model = build_model("lenet-300-100", input_shape=(1, 8, 8))
    prune_(model, 0.05, allocation="uniform")
    path = tmp_path_factory.mktemp("bench") / "net.terse"
    save(model, path, metadata={"task": "digits", "model": "lenet-300-100"})
    return path


@pytest.fixture(scope="module")
def sparse_plan(file):
    """A plan by which every layer runs on a kernel that skips zeros, faster or not."""
    model = load(file, into=build_model("lenet-300-100", input_shape=(1, 8, 8)))
    path = file.with_name("sparse.plan")
    options = {"batch_sizes": (2,), "threads": 1, "prefer": "memory", "plan": path}
    plan = plan_of(deploy(model, torch.zeros(2, 1, 8, 8), **options))
    assert {line.kernel.partition("/")[0] for line in plan.layers} <= {"sparse", "values", "csr"}
    return path


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0, keep=False):
        """With `keep` a plan beside the file is kept and followed; else each test searches anew."""
        plan = () if keep or "--plan" in arguments else ("--no-plan",)
        result = CliRunner().invoke(app, ["bench", *map(str, arguments), *plan])
        assert result.exit_code == code, result.output
        return result

    return run


def sections(result):
    report = json.loads(result.stdout)
    return report, {section["title"]: section for section in report["sections"]}


def test_every_number_of_threads_and_samples_is_a_row_with_both_networks(file, bench):
    before, threads = file.read_bytes(), torch.get_num_threads()
    sizes = ("--batch-size", "3", "--batch-size", "400", "--batch-size", "3")
    counts = ("--threads", "2", "--threads", "1", "--threads", "2")
    result = bench(file, *QUICK, *sizes, *counts, "--json")
    report, parts = sections(result)
    places = [(row["threads"], row["batch"]) for row in report["rows"]]
    assert places == [(2, 3), (2, 400), (1, 3), (1, 400)]
    for row in report["rows"]:
        for name in ("dense", "deployed"):
            assert 0 < row[f"{name} p50 ms"] <= row[f"{name} p90 ms"] <= row[f"{name} p99 ms"]
            assert row[f"{name} samples/s"] > 0
        assert row["times faster"] == row["dense p50 ms"] / row["deployed p50 ms"]
    assert report["summary"]["file bytes"] == len(before)
    assert report["summary"]["outputs differ by, relative"] < 1e-5
    assert list(parts) == ["Layers, 2 threads", "Layers, 1 thread", "Energy", "Machine"]
    assert file.read_bytes() == before
    assert torch.get_num_threads() == threads
    assert "timing with 2 threads, 400 samples a pass" in result.stderr


def test_each_layer_has_its_kernel_its_bytes_and_its_time(file, bench):
    _, parts = sections(bench(file, *QUICK, "--threads", "1", "--batch-size", "2", "--json"))
    rows = {row["layer"].partition(" ")[0]: row for row in parts["Layers, 1 thread"]["rows"]}
    assert list(rows) == ["fc1", "fc2", "fc3", "(the"]
    assert rows["fc1"]["dense bytes"] == 4 * 64 * 300
    for name in ("fc1", "fc2", "fc3"):
        assert rows[name]["kernel"]
        assert 0 < rows[name]["deployed bytes"]
        assert rows[name]["dense ms, batch 2"] > 0
    assert rows["fc1"]["deployed ms, batch 2"] > 0  # that of others may stand here, as one call
    assert rows["(the"]["dense ms, batch 2"] >= 0


def test_what_a_layer_takes_over_stands_in_its_row(file, bench, monkeypatch):
    def followed(deployed):
        found = plan_of(deployed)
        behind = {"fc1": "relu1", "fc2": "relu2"}
        lines = [replace(line, activation=behind.get(line.name)) for line in found.layers]
        return replace(found, layers=tuple(lines))

    monkeypatch.setattr(bench_parts, "plan_of", followed)
    _, parts = sections(bench(file, *QUICK, "--threads", "1", "--batch-size", "2", "--json"))
    names = [row["layer"] for row in parts["Layers, 1 thread"]["rows"]]
    assert names == ["fc1 + relu1", "fc2 + relu2", "fc3", "(the rest)"]


def test_why_layers_stay_as_they_are_is_said_once_a_reason(file, bench, monkeypatch):
    reasons = {"fc1": "too wide", "fc2": "no gain for the model as a whole", "fc3": "too wide"}

    def reasoned(deployed):
        found = plan_of(deployed)
        lines = [replace(line, reason=reasons[line.name]) for line in found.layers]
        note = "no gain for the model as a whole: all layers stay as they are"
        return replace(found, layers=tuple(lines), notes=(note,))

    monkeypatch.setattr(bench_parts, "plan_of", reasoned)
    _, parts = sections(bench(file, *QUICK, "--threads", "1", "--batch-size", "2", "--json"))
    notes = parts["Layers, 1 thread"]["notes"]
    assert notes[1:] == [
        "no gain for the model as a whole: all layers stay as they are",
        "fc1, fc3: too wide",
    ]


def test_no_time_counts_twice():
    network = build_model("transformer", input_shape=(1, 8, 8))
    deployed = deploy(network, torch.zeros(1, 1, 8, 8), select="fc")
    found = bench_parts._layers(network, plan_of(deployed))
    kept = [name for layer in found for name in layer.modules]
    assert {"fc", "encoder.layer1.norm1", "encoder.layer1.self_attn"} <= set(kept)
    assert "" not in kept
    assert not [a for a in kept for b in kept if b.startswith(f"{a}.")]


def test_a_plan_is_written_and_then_followed_without_a_search(file, bench, tmp_path):
    arguments = (*QUICK, "--no-energy", "--threads", "1", "--batch-size", "2", "--plan", "x.plan")
    first = bench(file, *arguments, "--json")
    assert "fc1" in first.stderr  # layer by layer
    assert sections(first)[0]["summary"]["plan"] == "x.plan: measured"
    plan = read_plan(tmp_path / "x.plan")
    assert (plan.threads, plan.batch_sizes) == (1, (2,))
    lines = tuple(
        replace(line, kernel="codes" if line.name == "fc3" else "dense") for line in plan.layers
    )
    lines = tuple(replace(line, norm=None, activation=None) for line in lines)
    replace(plan, layers=lines, chains=()).save(tmp_path / "x.plan")
    second = bench(file, *arguments, "--json")
    assert "fc1" not in second.stderr
    assert sections(second)[0]["summary"]["plan"] == "x.plan: followed"
    rows = {row["layer"]: row for row in sections(second)[1]["Layers, 1 thread"]["rows"]}
    assert [rows[name]["kernel"] for name in ("fc1", "fc2", "fc3")] == ["dense", "dense", "codes"]


@pytest.fixture
def young(file, tmp_path):
    """The network in a folder of its own, an hour old, and the name of its plan."""
    path = Path(shutil.copy(file, tmp_path / "young.terse"))
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return path, Path(f"{path}.plan.json")


def test_the_plan_beside_a_file_is_followed_until_the_file_is_made_anew(young, bench):
    file, plan = young
    arguments = (*QUICK, "--no-energy", "--no-layers", "--batch-size", "2", "--threads", "1")

    def said(*more):
        result = bench(file, *arguments, *more, "--json", keep=True)
        searched = "fc1" in result.stderr
        return sections(result)[0]["summary"]["plan"], searched

    assert said() == (f"{plan}: measured", True)
    assert read_plan(plan).batch_sizes == (2,)
    assert said() == (f"{plan}: followed", False)
    assert said("--batch-size", "3") == (f"{plan}: measured", True)  # a size that is not in it
    assert read_plan(plan).batch_sizes == (2, 3)
    os.utime(file, (plan.stat().st_mtime + 3600,) * 2)
    assert said() == (f"{plan}: measured", True)


def test_the_plan_beside_a_file_is_that_of_the_first_number_of_threads(young, bench):
    file, plan = young
    arguments = (*QUICK, "--no-energy", "--no-layers", "--batch-size", "2")
    counts = ("--threads", "2", "--threads", "1")
    for done in ("measured", "followed"):
        report, _ = sections(bench(file, *arguments, *counts, "--json", keep=True))
        assert report["summary"]["plan"] == f"{plan}: {done}"
        assert read_plan(plan).threads == 2


def test_without_a_plan_none_is_read_and_none_is_left(young, bench):
    file, plan = young
    plan.write_text("no plan")
    arguments = (*QUICK, "--no-energy", "--no-layers", "--batch-size", "2", "--json")
    report, _ = sections(bench(file, *arguments))
    assert report["summary"]["plan"] == "not kept"
    assert plan.read_text() == "no plan"


def test_a_plan_that_cannot_be_kept_beside_the_file_stops_nothing(young, bench):
    file, plan = young
    plan.mkdir()  # as good as a folder without the right to write, which root has
    arguments = (*QUICK, "--no-energy", "--no-layers", "--batch-size", "2", "--json")
    report, _ = sections(bench(file, *arguments, keep=True))
    assert report["summary"]["plan"].startswith("measured, not kept: ")
    assert "is a folder" in report["summary"]["plan"]
    assert report["rows"]


def test_the_energy_of_the_dense_network_is_that_of_the_stated_model(file, bench):
    _, parts = sections(bench(file, *QUICK, "--no-layers", "--batch-size", "10", "--json"))
    dense, deployed = parts["Energy"]["rows"]
    assert (dense["network"], deployed["network"]) == ("dense", "deployed")
    assert dense["estimate: arithmetic uJ"] == pytest.approx(MACS * 4.6e-6)
    assert dense["estimate: weights uJ"] == pytest.approx(50_610 * 640e-6 / 10)
    assert deployed["estimate: arithmetic uJ"] <= dense["estimate: arithmetic uJ"]
    for row in (dense, deployed):
        both = row["estimate: arithmetic uJ"] + row["estimate: weights uJ"]
        assert row["estimate: uJ a sample"] == pytest.approx(both)
    model, measured = parts["Energy"]["notes"]
    assert model.startswith("Estimate, not measured")
    assert measured.startswith("Measured: ")
    assert ("not available" in measured) == ("measured: uJ a sample" not in dense)


def test_memory_is_that_of_processes_that_run_one_of_the_networks(file, bench):
    arguments = ("--runs", "1", "--no-layers", "--no-energy", "--batch-size", "4")
    _, parts = sections(bench(file, *arguments, "--json"))
    dense, deployed = parts["Memory"]["rows"]
    assert (dense["network"], deployed["network"]) == ("dense", "deployed")
    assert dense["weight bytes"] == 4 * 50_610
    assert 0 < deployed["weight bytes"] <= dense["weight bytes"]
    for row in (dense, deployed):
        assert row["peak bytes, made ready"] >= dense["weight bytes"]
        assert row["peak bytes, made ready"] < 20_000_000
    assert "fresh process" in parts["Memory"]["notes"][0]


def test_sparse_kernels_hold_fewer_bytes_and_multiply_with_no_zero(file, sparse_plan, bench):
    arguments = ("--runs", "1", "--batch-size", "2", "--threads", "1", "--plan", sparse_plan)
    _, parts = sections(bench(file, *arguments, "--json"))
    for row in parts["Layers, 1 thread"]["rows"][:-1]:
        assert row["deployed bytes"] < 0.6 * row["dense bytes"]
    _, deployed = parts["Energy"]["rows"]
    assert deployed["estimate: arithmetic uJ"] == pytest.approx(0.05 * MACS * 4.6e-6)
    held = [row["weight bytes"] for row in parts["Memory"]["rows"]]
    assert held[1] < 0.3 * held[0]
    assert deployed["estimate: weights uJ"] == pytest.approx(held[1] * 160e-6 / 2)


def test_what_is_not_wanted_is_left_out(file, bench):
    _, parts = sections(bench(file, *QUICK, "--no-layers", "--no-energy", "--json"))
    assert list(parts) == ["Machine"]


def test_a_person_sees_tables(file, bench):
    text = bench(file, *QUICK, "--batch-size", "1").stdout
    for expected in ("Bench of net.terse", "lenet-300-100", "fc2", "denormals", "(the rest)"):
        assert expected in text
    assert "answers differently" not in text


def test_a_deployed_network_that_answers_differently_is_told(file, bench, monkeypatch):
    deploy = bench_parts.deploy

    def spoilt(model, *arguments, **options):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.fc3.weight.mul_(1.01)
            other.fc3.bias.mul_(1.01)
        return deploy(other, *arguments, **options)

    monkeypatch.setattr(bench_parts, "deploy", spoilt)
    report, _ = sections(bench(file, *QUICK, "--no-layers", "--no-energy", "--json"))
    assert report["summary"]["outputs differ by, relative"] == pytest.approx(0.01, rel=1e-2)
    assert "answers differently" in report["notes"][-1]


def test_a_difference_that_is_no_number_is_told(file, bench, monkeypatch):
    deploy = bench_parts.deploy

    def spoilt(model, *arguments, **options):
        other = copy.deepcopy(model)
        nn.init.constant_(other.fc3.bias, float("nan"))
        return deploy(other, *arguments, **options)

    monkeypatch.setattr(bench_parts, "deploy", spoilt)
    report, _ = sections(bench(file, *QUICK, "--no-layers", "--no-energy", "--json"))
    assert "answers differently" in report["notes"][-1]


def test_an_interrupt_ends_it_with_130(file, bench, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_parts, "latencies", interrupted)
    assert "interrupted" in bench(file, *QUICK, code=130).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch-size", "0"], 2, r"--batch-size 0: expected 1 or more"),
        (["--threads", "-1"], 2, r"--threads -1: expected 1 or more"),
        (["--runs", "0"], 2, r"--runs 0: expected 1 or more"),
        (["--model", "lenet-6"], 2, r"'lenet-6'.*did you mean 'lenet-5'"),
        (
            ["--plan", "x.plan", "--threads", "1", "--threads", "2"],
            2,
            r"x\.plan: is for one number",
        ),
        (["--plan", "x.plan", "--no-plan"], 2, r"x\.plan and --no-plan: expected one"),
        (["--plan", "no/x.plan"], 1, r"x\.plan: the folder .*no' does not exist"),
    ],
)
def test_wrong_use_gives_one_message(arguments, code, message, file, bench):
    result = bench(file, *arguments, code=code)
    assert re.search(message, result.stderr.replace("\n", " "))
    assert "Traceback" not in result.output


def test_a_file_without_names_needs_them_said(bench, tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert (
        "does not say for which model it is; give --model" in bench("a.safetensors", code=2).stderr
    )
    said = bench("a.safetensors", "--model", "lenet-5", code=2).stderr
    assert "does not say for which task it is; give --task, or --input-shape" in said


def test_a_network_of_ones_own_is_built_by_a_function(bench, tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))\n"
        "def number():\n"
        "    return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    weights = {"1.weight": torch.ones(4, 12), "1.bias": torch.zeros(4)}
    safetensors.torch.save_file(weights, tmp_path / "own.safetensors")
    rest = ("--input-shape", "3,2,2", "--no-memory", "--no-energy", "--runs", "10")
    result = bench("own.safetensors", "--model", "own_network:build", *rest)
    assert re.search(r"samples +random", result.stdout)
    for name, message in (
        ("own_network:number", "gives a int, expected a torch.nn.Module"),
        ("own_network:built", "expected module:function"),
        ("no_such_network:build", "No module named 'no_such_network'"),
    ):
        failed = bench("own.safetensors", "--model", name, *rest, code=2)
        assert message in failed.stderr.replace("\n", " ")
    wrong = bench("own.safetensors", "--model", "own_network:build", "--input-shape", "3,x", code=2)
    assert "--input-shape 3,x: expected numbers" in wrong.stderr


def test_without_the_data_of_its_task_a_network_is_timed_on_random_samples(bench, tmp_path):
    tersor.save(
        tersor.build_model("lenet-300-100"),
        tmp_path / "net.terse",
        metadata={"task": "mnist", "model": "lenet-300-100"},
    )
    options = ("--data-dir", str(tmp_path), "--no-memory", "--no-energy", "--no-layers")
    result = bench("net.terse", "--runs", "10", *options)
    assert "random, as the data is not there" in result.stdout.replace("\n", " ")


def test_a_file_that_is_not_there_is_named(bench):
    assert "no.terse: No such file" in bench("no.terse", code=1).stderr

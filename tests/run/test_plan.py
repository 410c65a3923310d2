"""A plan as a value: JSON and back, damaged files, and what its table says."""

import dataclasses
import json

import pytest
import torch
from deployables import cnn, few_values_, images, mlp, prefer, vectors
from torch import nn

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.run import Machine, deploy, plan_of, read_plan


@pytest.fixture
def plan(monkeypatch):
    prefer(monkeypatch, "sparse", chains=True)
    return plan_of(deploy(mlp(), vectors(), batch_sizes=(1, 4)))


def test_a_plan_comes_back_from_its_file(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_a_plan_of_every_kind_of_layer_comes_back(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse", "pool")
    plan = plan_of(deploy(cnn(), images()))
    plan = dataclasses.replace(plan, notes=("größer", "a\nb"), difference=1.25e-7)
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_a_file_is_json_with_its_version(plan):
    parts = json.loads(plan.to_json())
    assert parts["format"] == 1
    assert [layer["name"] for layer in parts["layers"]] == ["0", "2", "4"]
    assert parts["layers"][0]["milliseconds"]["dense"] == {"1": 2.0, "4": 2.0}


def changed(plan, change):
    parts = json.loads(plan.to_json())
    change(parts)
    return json.dumps(parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"plan"',
        "{}",
        '{"format": 1}',
        "\x00\xff",
        '{"format": 1, "layers": 5}',
    ],
)
def test_a_file_that_is_no_plan_is_refused_by_name(text, tmp_path):
    file = tmp_path / "net.plan.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(
        ConfigError, match=r"net\.plan\.json: no plan of a deployed model.*remove it"
    ):
        read_plan(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("layers"),
        lambda p: p.pop("machine"),
        lambda p: p.update(more=1),
        lambda p: p["layers"][0].pop("kernel"),
        lambda p: p["layers"][0].update(colour="red"),
        lambda p: p["layers"][0].update(milliseconds=[1]),
        lambda p: p["layers"][0].update(milliseconds={"dense": {"one": 1}}),
        lambda p: p["machine"].pop("threads"),
        lambda p: p.update(batch_sizes=None),
        lambda p: p.update(chains=3),
        lambda p: p.update(layers=["0"]),
    ],
)
def test_a_plan_with_a_part_missing_or_too_many_is_refused(plan, tmp_path, change):
    file = tmp_path / "plan.json"
    file.write_text(changed(plan, change))
    with pytest.raises(ConfigError, match=r"plan\.json: no plan of a deployed model"):
        read_plan(file)


def test_a_truncated_file_is_refused_wherever_it_ends(plan, tmp_path):
    file = tmp_path / "plan.json"
    text = plan.to_json()
    for end in range(0, len(text) - 1, 37):
        file.write_text(text[:end])
        with pytest.raises(ConfigError, match=r"plan\.json: no plan of a deployed model"):
            read_plan(file)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(plan, tmp_path, version):
    file = tmp_path / "plan.json"
    file.write_text(changed(plan, lambda p: p.update(format=version)))
    with pytest.raises(ConfigError, match=f"a plan of format {version}, expected 1; remove it"):
        read_plan(file)


def test_a_file_that_is_not_there_is_told_as_python_does(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_plan(tmp_path / "none.json")


def test_a_machine_is_its_processor_instructions_threads_and_versions():
    here = Machine.here(3)
    assert here == Machine.here(3)
    assert here != Machine.here(2)
    assert here.instructions == _native.isa()
    assert here.torch == torch.__version__
    assert here.processor


def test_the_table_has_a_line_for_each_layer_and_what_was_gained(plan):
    report = plan.report()
    assert [row["layer"] for row in report.rows] == ["0", "2", "4"]
    assert report.rows[0]["kernel"] == plan.layer("0").kernel
    assert report.rows[0]["dense ms, batch 4"] == 2.0
    assert report.rows[0]["deployed ms, batch 4"] == 1.0
    text = str(plan)
    assert "2.000 ms dense, 1.000 ms deployed, 2.00 x" in text
    after = sum(layer.weight_bytes for layer in plan.layers)
    before = 4 * (40 * 32 + 32 * 24 + 24 * 5)
    assert f"{after:,} of {before:,} bytes" in text
    assert plan.notes[0] in text
    assert plan.layer("missing") is None


def test_denormal_weights_are_counted(monkeypatch):
    prefer(monkeypatch, "sparse")
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, :3] = torch.tensor([1e-40, -1e-40, 0.0])
        model[2].bias[0] = 1e-39
        model[2].bias[1] = torch.finfo(torch.float32).tiny
    assert plan_of(deploy(model, vectors())).denormals == 3


def test_a_plan_of_a_model_without_layers_is_empty(tmp_path):
    plan = plan_of(deploy(few_values_(nn.Sequential(nn.ReLU())), vectors()))
    assert plan.layers == ()
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan

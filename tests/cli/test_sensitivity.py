from __future__ import annotations

import json
import re
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from tersor.cli.sensitivity import sensitivity_command
from tersor.core.seeding import seed_everything
from tersor.measure import evaluate
from tersor.measure.loss import mean_loss
from tersor.prune import prune_
from tersor.store import save
from tersor.tasks import build_model, load_task
from tersor.train import Stepper


def network() -> torch.nn.Module:
    seed_everything(0, "test")
    return build_model("lenet-300-100", input_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that knows its digits, and its file."""
    model, task = network(), load_task("digits")
    Stepper(model, task, torch.optim.Adam(model.parameters(), 1e-3)).run(120)
    file = tmp_path_factory.mktemp("trained") / "net.terse"
    save(model, file, metadata={"task": "digits", "model": "lenet-300-100"})
    return model, task, file


@pytest.fixture
def tersor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(sensitivity_command)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


def with_one_pruned(name: str, density: float, **options) -> torch.nn.Module:
    model = options.pop("model")
    other = network()
    other.load_state_dict(model.state_dict())
    prune_(other, {name: density}, **options)
    return other


@pytest.mark.parametrize("measure", ["loss", "error"])
def test_the_table_is_of_validation_with_one_layer_pruned(measure, trained, tersor):
    model, task, file = trained

    def value(net):
        if measure == "loss":
            return mean_loss(net, task.validation, task.loss)
        return evaluate(net, task.validation).percent

    before = file.read_bytes()
    result = tersor(file, "--densities", "0.1,0.02", "--measure", measure, "--json")
    report = json.loads(result.stdout)
    assert report["summary"]["nothing pruned"] == value(model)
    assert f"validation {measure}" in report["summary"]["measured"]
    assert [row["name"] for row in report["rows"]] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    for row in report["rows"]:
        for density in (0.1, 0.02):
            pruned = with_one_pruned(row["name"], density, model=model)
            assert row[f"at {density}"] == pytest.approx(value(pruned), abs=1e-6)
    assert file.read_bytes() == before


def test_the_allocation_has_the_density_and_is_a_command_that_prunes_so(trained, tersor):
    model, task, file = trained
    arguments = (file, "--densities", "0.5,0.2,0.1,0.05,0.02", "--density", "0.06")
    report = json.loads(tersor(*arguments, "--json").stdout)
    [part] = report["sections"]
    assert sum(row["kept"] for row in part["rows"]) == round(0.06 * 50_200)
    [note] = part["notes"]
    pairs = dict(p.split("=") for p in note.rpartition(" ")[2].split(","))
    pruned = network()
    pruned.load_state_dict(model.state_dict())
    masks, _ = prune_(pruned, {name: float(value) for name, value in pairs.items()})
    assert masks.kept == round(0.06 * 50_200)
    loss = mean_loss(pruned, task.validation, task.loss)
    assert part["summary"]["all pruned"] == pytest.approx(loss, abs=1e-6)
    shown = tersor(*arguments).stdout
    assert "Allocation of equal slopes" in shown
    assert "fc1.weight" in shown


def test_criterion_and_pattern_and_layers_can_be_chosen(trained, tersor):
    file = trained[2]
    arguments = (file, "--densities", "0.5", "--pattern", "row", "--criterion", "snip")
    first = tersor(*arguments, "--ignore", "fc3", "--batches", "2", "--json").stdout
    report = json.loads(first)
    assert [row["name"] for row in report["rows"]] == ["fc1.weight", "fc2.weight"]
    assert report["skipped"]["fc3.weight"] == "ignored"
    assert tersor(*arguments, "--ignore", "fc3", "--batches", "2", "--json").stdout == first


def test_the_picture_is_a_png_of_the_curves(trained, tersor, tmp_path):
    tersor(trained[2], "--densities", "0.5,0.1", "--picture", "curves.png")
    data = (tmp_path / "curves.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 5_000 < len(data) < 100_000


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(
    trained, tersor, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = tersor(trained[2], "--picture", "curves.png", code=1)
    assert "pip install 'tersor[plots]'" in result.stderr
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--densities", "0.5,x"], 2, r"--densities '0\.5,x': expected numbers"),
        (["--densities", "0.5,2"], 2, r"density: 2\.0; expected 0 < density"),
        (["--picture", "curves.jpg"], 2, r"'curves\.jpg': expected a name that ends in \.png"),
        (["--measure", "eror"], 2, r"measure 'eror': did you mean 'error'"),
        (["--criterion", "magnitud"], 2, r"criterion 'magnitud': did you mean 'magnitude'"),
        (["--densities", "0.5", "--density", "0.1"], 2, r"density 0\.1 is below what was measured"),
    ],
)
def test_wrong_use_gives_one_message(arguments, code, message, trained, tersor):
    result = tersor(trained[2], *arguments, code=code)
    assert re.search(message, result.stderr.replace("\n", " "))
    assert "Traceback" not in result.output


def test_a_file_that_is_not_there_is_named(tersor):
    assert "no.terse: No such file" in tersor("no.terse", code=1).stderr

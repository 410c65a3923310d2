from __future__ import annotations

import copy
import errno
import json
import signal
import subprocess
import sys
import textwrap
from importlib import import_module

import pytest
import torch
from torch import nn

from tersor.compress import Prune, Quantize, Recipe, Train, compress
from tersor.core.errors import ConfigError, FormatError, StorageError, TrainingError
from tersor.core.seeding import seed_everything
from tersor.store import inspect, load, save
from tersor.tasks import Task, build_model, load_task

# tersor.compress is a function, too, so its modules are found by their full names.
pipeline, readback, quantizing = (
    import_module(f"tersor.compress.{name}") for name in ("pipeline", "readback", "quantizing")
)

RECIPE = Recipe(
    (
        Train(epochs=3, learning_rate=0.01),
        Prune(density=0.1, allocation="lamp", epochs=3, learning_rate=0.01),
        Quantize(bits=3, epochs=2, learning_rate=1e-4),
    ),
    batch_size=64,
)

PRUNE = {"steps": [{"prune": {"density": 0.2, "allocation": "lamp"}}]}


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", batch_size=64)


def fresh_model(seed: int = 0) -> nn.Module:
    seed_everything(seed, "init")
    return build_model("lenet-300-100", input_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """One whole run that several tests look at: the model, the result, its folder."""
    folder = tmp_path_factory.mktemp("run")
    model = fresh_model()
    result = compress(
        model, digits, RECIPE, out=folder / "a.terse", metadata={"task": "digits"}, verbose=False
    )
    return model, result


def weights_of(state):
    return {name: tensor for name, tensor in state.items() if tensor.dim() == 2}


def test_the_file_holds_just_the_values_of_the_model(run):
    model, result = run
    for name, tensor in load(result.file).items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert inspect(result.file).metadata == {"task": "digits"}


def test_the_density_is_exact_and_each_tensor_has_at_most_eight_values(run):
    weights = weights_of(load(run[1].file))
    kept = sum(int((w != 0).sum()) for w in weights.values())
    assert kept == round(0.1 * sum(w.numel() for w in weights.values()))
    assert all(len(w[w != 0].unique()) <= 8 for w in weights.values())


def test_sizes_are_those_of_the_operating_system_and_of_the_tensors(run):
    model, result = run
    assert result.file_bytes == result.file.stat().st_size
    assert result.dense_bytes == 4 * sum(p.numel() for p in model.parameters()) == 202_440
    assert result.ratio == result.dense_bytes / result.file_bytes > 20


def test_errors_are_those_of_the_test_set_and_the_network_has_learnt(run, digits):
    model, result = run
    inputs, targets = digits.test.dataset.inputs, digits.test.dataset.targets
    wrong = int((model(inputs).argmax(1) != targets).sum())
    assert result.error == pytest.approx(100 * wrong / len(targets))
    assert result.error < 15
    assert result.reference_error < 15


def test_the_folder_beside_the_file_has_recipe_log_and_report(run):
    result = run[1]
    folder = result.file.with_name("a.terse.run")
    assert sorted(p.name for p in folder.iterdir()) == [
        "log.jsonl",
        "recipe.yaml",
        "report.json",
        "report.md",
    ]
    assert (folder / "recipe.yaml").read_text() == RECIPE.to_yaml()
    assert json.loads((folder / "report.json").read_text()) == result.report.to_dict()
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == ["train", "prune", "quantize"]
    assert len([e for e in events if e["event"] == "epoch"]) == 8


def test_the_numbers_as_plain_data_are_json(run):
    numbers = json.loads(json.dumps(run[1].to_dict()))
    assert numbers["file_bytes"] == run[1].file_bytes
    assert {"file", "dense_bytes", "ratio", "reference_error", "error", "seconds", "seed"} <= set(
        numbers
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(run, digits, tmp_path):
    again = compress(
        fresh_model(),
        digits,
        RECIPE,
        out=tmp_path / "b.terse",
        metadata={"task": "digits"},
        verbose=False,
    )
    other = compress(fresh_model(), digits, RECIPE, out=tmp_path / "c.terse", seed=1, verbose=False)
    assert again.file.read_bytes() == run[1].file.read_bytes()
    assert other.file.read_bytes() != run[1].file.read_bytes()


def test_a_trained_network_is_its_own_reference(run, digits, tmp_path):
    model = fresh_model()
    before = copy.deepcopy(model.state_dict())
    result = compress(model, digits, PRUNE, out=tmp_path / "p", verbose=False)
    fresh = fresh_model()
    fresh.load_state_dict(before)
    wrong = int((fresh(digits.test.dataset.inputs).argmax(1) != digits.test.dataset.targets).sum())
    assert result.reference.mistakes == wrong


class Once:
    """Batches that may be gone through only so many times."""

    def __init__(self, batches, times):
        self.batches, self.times = batches, times

    def __iter__(self):
        self.times -= 1
        assert self.times >= 0, "the test set was read too often"
        return iter(self.batches)


def test_the_test_set_is_read_once_for_each_of_the_two_networks(digits, tmp_path):
    task = Task("once", digits.train, digits.validation, Once(list(digits.test), 2))
    compress(fresh_model(), task, RECIPE, out=tmp_path / "x.terse", verbose=False)
    assert task.test.times == 0


def test_convolutions_batch_norm_and_tied_weights_go_through(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3)
            self.norm = nn.BatchNorm2d(8)
            self.first = nn.Linear(8, 8, bias=False)
            self.second = nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.norm(self.conv(x)).relu().mean((2, 3))
            return self.head(self.second(self.first(x).relu()))

    torch.manual_seed(0)
    inputs = torch.randn(64, 1, 6, 6)
    batches = [(inputs, (inputs.mean((1, 2, 3)) > 0).long())]
    model = Net()
    result = compress(
        model,
        Task("toy", batches, batches, batches),
        {
            "steps": [
                {"train": {"epochs": 3}},
                {"prune": {"density": 0.4, "epochs": 3, "ignore": ["head"]}},
                {"quantize": {"bits": {"conv": 4, "first": 2}, "epochs": 2}},
            ]
        },
        out=tmp_path / "toy.terse",
        verbose=False,
    )
    state = load(result.file)
    assert state["first.weight"] is state["second.weight"]
    assert model.first.weight is model.second.weight
    assert len(state["first.weight"].unique()) <= 5
    assert (state["head.weight"] != 0).all()


def test_what_is_pruned_and_not_shared_stays_pruned_while_the_shared_values_are_trained(
    digits, tmp_path
):
    recipe = {
        "steps": [
            {"prune": {"density": 0.2, "allocation": "uniform"}},
            {"quantize": {"bits": {"fc1": 3}, "epochs": 2, "learning_rate": 0.01}},
        ]
    }
    result = compress(fresh_model(), digits, recipe, out=tmp_path / "x.terse", verbose=False)
    state = load(result.file)
    assert int((state["fc2.weight"] != 0).sum()) == 6000
    assert len(state["fc2.weight"].unique()) > 5000
    assert len(state["fc1.weight"].unique()) <= 9


def test_bad_settings_leave_no_file_and_the_old_one_alone(digits, tmp_path):
    out = tmp_path / "old.terse"
    out.write_bytes(b"what was there")
    with pytest.raises(ConfigError, match=r"'fc9': matches no weight .* did you mean 'fc"):
        compress(
            fresh_model(),
            digits,
            {"steps": [{"prune": {"density": {"fc9": 0.1}}}]},
            out=out,
            verbose=False,
        )
    assert out.read_bytes() == b"what was there"


def test_a_loss_that_is_not_finite_stops_the_run(digits, tmp_path):
    recipe = {"steps": [{"train": {"epochs": 2, "optimizer": "sgd", "learning_rate": 1e9}}]}
    with pytest.raises(TrainingError, match=r"train: the loss is (nan|inf) at step"):
        compress(fresh_model(), digits, recipe, out=tmp_path / "x.terse", verbose=False)
    assert not (tmp_path / "x.terse").exists()


def test_a_folder_that_is_not_there_is_named_before_any_work(digits, tmp_path):
    with pytest.raises(StorageError, match=r"no/x\.terse: expected the name of a file"):
        compress(fresh_model(), digits, RECIPE, out=tmp_path / "no" / "x.terse", verbose=False)


def test_a_full_disk_at_the_end_keeps_the_old_file(digits, tmp_path, monkeypatch):
    out = tmp_path / "old.terse"
    out.write_bytes(b"what was there")

    def save_on_a_full_disk(*arguments, **options):
        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        return save(*arguments, **options)

    monkeypatch.setattr(pipeline, "save", save_on_a_full_disk)
    with pytest.raises(StorageError, match=r"old\.terse.* cannot be written \(No space left"):
        compress(fresh_model(), digits, PRUNE, out=out, verbose=False)
    assert out.read_bytes() == b"what was there"


def test_a_file_that_does_not_read_back_equal_is_an_error(digits, tmp_path, monkeypatch):
    def wrong(path, *, into):
        loaded = load(path, into=into)
        with torch.no_grad():
            loaded.fc1.bias[0] += 1
        return loaded

    monkeypatch.setattr(readback, "load", wrong)
    out = tmp_path / "old.terse"
    out.write_bytes(b"what was there")
    with pytest.raises(FormatError, match=r"read back, fc1\.bias differ"):
        compress(fresh_model(), digits, PRUNE, out=out, verbose=False)
    assert out.read_bytes() == b"what was there"


SCRIPT = """
    import os
    import sys
    import torch
    from tersor.compress import compress, read_recipe
    from tersor.core.seeding import seed_everything
    from tersor.tasks import build_model, load_task
    from tersor.train.progress import Display

    recipe, out, *stop = sys.argv[1:]
    shown = Display.end_epoch

    def end_epoch(self, epoch, **numbers):
        shown(self, epoch, **numbers)
        if stop and (self._label, str(epoch)) == (stop[0], stop[1]):
            os.kill(os.getpid(), int(stop[2]))

    Display.end_epoch = end_epoch
    torch.set_num_threads(1)
    recipe = read_recipe(recipe)
    task = load_task("digits", batch_size=recipe.batch_size)
    seed_everything(0, "init")
    model = build_model("lenet-300-100", input_shape=(1, 8, 8))
    compress(model, task, recipe, out=out, metadata={"task": "digits"})
"""


@pytest.mark.parametrize(
    ("how", "step", "epoch"),
    [
        (signal.SIGINT, "train", 1),
        (signal.SIGINT, "prune", 2),
        (signal.SIGTERM, "quantize", 1),
        (signal.SIGKILL, "prune", 3),
    ],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(how, step, epoch, run, tmp_path):
    script, recipe, out = (tmp_path / name for name in ("run.py", "recipe.yaml", "x.terse"))
    script.write_text(textwrap.dedent(SCRIPT))
    recipe.write_text(RECIPE.to_yaml())
    out.write_bytes(b"what was there")
    command = [sys.executable, str(script), str(recipe), str(out)]
    stop = [step, str(epoch), str(int(how))]
    stopped = subprocess.run([*command, *stop], capture_output=True, text=True, check=False)
    assert stopped.returncode != 0
    assert f"{step}  epoch {epoch}/" in stopped.stderr
    assert out.read_bytes() == b"what was there"
    assert list((tmp_path / "x.terse.run").glob("state-*"))
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "train  epoch 1/3" not in finished.stderr  # what was done is not done again
    assert out.read_bytes() == run[1].file.read_bytes()
    assert not list((tmp_path / "x.terse.run").glob("state-*"))


def test_another_seed_neither_goes_on_from_an_unfinished_run_nor_loses_its_state(
    digits, tmp_path, monkeypatch
):
    out = tmp_path / "x.terse"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(quantizing, "quantize_", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(fresh_model(), digits, RECIPE, out=out, verbose=False)
    [state] = (tmp_path / "x.terse.run").glob("state-*")
    other = compress(fresh_model(1), digits, RECIPE, out=out, seed=1, verbose=False)
    clean = compress(
        fresh_model(1), digits, RECIPE, out=tmp_path / "y.terse", seed=1, verbose=False
    )
    assert other.file.read_bytes() == clean.file.read_bytes()
    assert list((tmp_path / "x.terse.run").glob("state-*")) == [state]
    assert (state / "steps.pt").exists()


def test_a_network_can_be_pruned_before_it_is_trained(digits, tmp_path):
    model = fresh_model()
    recipe = Recipe((Prune(density=0.1, criterion="snip"), Train(epochs=3, learning_rate=0.01)))
    result = compress(model, digits, recipe, out=tmp_path / "a.terse", verbose=False)
    weights = weights_of(load(result.file))
    assert sum(int((w != 0).sum()) for w in weights.values()) == round(0.1 * 50_200)
    assert result.error < 20 < 50 < result.reference_error  # the reference is as it was given
    again = fresh_model()
    compress(again, digits, recipe, out=tmp_path / "b.terse", verbose=False)
    assert (tmp_path / "a.terse").read_bytes() == (tmp_path / "b.terse").read_bytes()


def test_pattern_rounds_and_batches_reach_the_pruning(digits, tmp_path):
    model = fresh_model()
    step = {"pattern": "2:4", "criterion": "taylor", "batches": 2, "epochs": 1}
    recipe = {"steps": [{"prune": {**step, "ignore": ["fc3"]}}]}
    result = compress(model, digits, recipe, out=tmp_path / "a.terse", verbose=False)
    for name, weight in weights_of(load(result.file)).items():
        live = (weight.reshape(-1, 4) != 0).sum(1)
        assert (live > 2).any() if name == "fc3.weight" else (live <= 2).all()

"""Killed and resumed is the same, to the bit, as never interrupted."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tersor.core.checkpoint import load_checkpoint
from tersor.core.errors import FormatError

SCRIPT = Path(__file__).with_name("one_run.py")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


one_run = load_script()
fit_module = importlib.import_module("tersor.train.fit")


class CrashError(Exception):
    """Nobody is asked: the training just ends."""


def crash_at(number: int):
    def stop(step: int) -> None:
        if step == number:
            raise CrashError

    return stop


def interrupt_at(number: int, kind: signal.Signals = signal.SIGINT):
    def stop(step: int) -> None:
        if step == number:
            os.kill(os.getpid(), kind)

    return stop


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.numpy().tobytes() == other[name].numpy().tobytes(), name


@pytest.fixture(scope="module")
def whole() -> dict[str, tuple[nn.Module, dict]]:
    """Each kind of training, never interrupted."""
    return {kind: one_run.run(kind) for kind in one_run.SETTINGS}


@pytest.mark.parametrize("kind", one_run.SETTINGS)
def test_the_same_seed_gives_the_same_bytes_and_training_moves_weights(whole, kind):
    model, summary = one_run.run(kind)
    assert_same_bits(model.state_dict(), whole[kind][0].state_dict())
    assert summary == whole[kind][1]
    shorter, _ = one_run.run(kind, keep="last", epochs=3)
    assert not torch.equal(model[0].weight, shorter[0].weight)


def test_a_checkpoint_changes_nothing(whole, tmp_path):
    model, _ = one_run.run("plain", tmp_path / "state", checkpoint_steps=3)
    assert_same_bits(model.state_dict(), whole["plain"][0].state_dict())


@pytest.mark.parametrize("number", [1, 11, 16, 32])
@pytest.mark.parametrize("kind", one_run.SETTINGS)
def test_an_interrupt_finishes_the_step_and_the_run_resumes_to_the_same_bits(
    whole, kind, number, tmp_path
):
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        one_run.run(kind, state, at_step=interrupt_at(number))
    assert load_checkpoint(state)["counters"][2] == number
    steps = []
    model, summary = one_run.run(kind, state, at_step=steps.append)
    assert len(steps) == one_run.STEPS - number
    assert_same_bits(model.state_dict(), whole[kind][0].state_dict())
    assert summary == whole[kind][1]


@pytest.mark.parametrize("kind", one_run.SETTINGS)
def test_a_run_that_died_goes_on_from_its_last_checkpoint(whole, kind, tmp_path):
    state = tmp_path / "state"
    for number in (13, 12):  # it dies twice
        with pytest.raises(CrashError):
            one_run.run(kind, state, at_step=crash_at(number), checkpoint_steps=5)
    assert load_checkpoint(state)["counters"][2] in (20, 21, 22)
    model, summary = one_run.run(kind, state, checkpoint_steps=5)
    assert_same_bits(model.state_dict(), whole[kind][0].state_dict())
    assert summary == whole[kind][1]


def test_sigterm_is_an_interrupt_too(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        one_run.run("plain", tmp_path / "state", at_step=interrupt_at(5, signal.SIGTERM))
    model, _ = one_run.run("plain", tmp_path / "state")
    assert_same_bits(model.state_dict(), whole["plain"][0].state_dict())


def test_an_interrupt_in_the_last_validation_is_not_lost(whole, tmp_path, monkeypatch):
    validate, calls = fit_module._Run._validate, []

    def interrupted(run):
        calls.append(run.epoch)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(run)

    monkeypatch.setattr(fit_module._Run, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one_run.run("plain", tmp_path / "state")
    monkeypatch.undo()
    model, summary = one_run.run("plain", tmp_path / "state", at_step=crash_at(1))
    assert_same_bits(model.state_dict(), whole["plain"][0].state_dict())
    assert summary == whole["plain"][1]


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        one_run.run("plain", tmp_path / "state", at_step=interrupt_at(2))
    one_run.run("plain", tmp_path / "state")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_finished_run_is_not_trained_again(whole, tmp_path):
    one_run.run("pruner", tmp_path / "state")
    model, summary = one_run.run("pruner", tmp_path / "state", at_step=crash_at(1))
    assert_same_bits(model.state_dict(), whole["pruner"][0].state_dict())
    assert summary == whole["pruner"][1]


@pytest.mark.parametrize(("kind", "name"), [("pruner", "SIGKILL"), ("tuner", "SIGINT")])
def test_a_process_that_is_killed_resumes_to_the_same_bits(whole, kind, name, tmp_path):
    def start(*stop: str) -> int:
        command = [sys.executable, SCRIPT, kind, tmp_path / "state", tmp_path / "out", *stop]
        return subprocess.run(command, capture_output=True, timeout=120).returncode

    assert start(name, "20") == -getattr(signal, name)
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"state"}  # whole, and nothing beside it
    assert start() == 0
    assert_same_bits(torch.load(tmp_path / "out"), whole[kind][0].state_dict())


@pytest.mark.parametrize("size", [0, 10, 0.5, -1])
def test_a_damaged_checkpoint_is_named_and_kept(size, tmp_path):
    state = tmp_path / "state"
    one_run.run("plain", state, epochs=1)
    whole = state.read_bytes()
    part = whole[: int(size * len(whole)) if isinstance(size, float) else size]
    state.write_bytes(part)
    with pytest.raises(FormatError, match="state: no checkpoint, or a damaged one"):
        one_run.run("plain", state)
    assert state.read_bytes() == part


def test_a_checkpoint_of_another_training_is_named(tmp_path):
    one_run.run("pruner", tmp_path / "state", epochs=1, keep="last")
    for other in ("plain", "tuner"):
        with pytest.raises(FormatError, match="state: a checkpoint of another training"):
            one_run.run(other, tmp_path / "state")
    torch.save({"step": 3}, tmp_path / "state")
    with pytest.raises(FormatError, match="state: a checkpoint of another training"):
        one_run.run("plain", tmp_path / "state")

import importlib
import sys
from functools import partial

import pytest
import torch
from torch import nn

from tersor.core.errors import TersorError
from tersor.measure import memory, peak_memory, weight_bytes

BYTES_OF_ONES = 40_000_000

MODULE = """
import functools, pathlib, torch

def held(count):
    tensor = torch.ones(count)
    return functools.partial(torch.add, tensor, 1)

def let_go(count):
    torch.ones(count).sum()
    return pathlib.Path.cwd

def fail():
    print("a word on stdout is none of the numbers")
    raise ValueError("no network here")
"""


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A module that the fresh process can import, as it can those of a user."""
    (tmp_path / "prepare.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "prepare", raising=False)
    return importlib.import_module("prepare")


def test_weights_and_buffers_count_and_shared_memory_counts_once():
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Linear(10, 10))
    plain = 2 * (100 + 10) * 4 + 4 * 10 * 4 + 8  # the last is the number of batches, int64
    assert weight_bytes(model) == plain
    model[2].weight = model[0].weight
    assert weight_bytes(model) == plain - 400
    model[2].bias = nn.Parameter(model[0].bias.data)  # the same memory under another tensor
    assert weight_bytes(model) == plain - 440
    model.register_buffer("index", torch.zeros(7, dtype=torch.int16), persistent=False)
    assert weight_bytes(model) == plain - 440 + 14


def test_a_view_holds_the_memory_that_it_is_cut_from():
    model = nn.Module()
    model.part = nn.Parameter(torch.zeros(1000)[:10])
    assert weight_bytes(model) == 4000


def test_an_empty_model_has_no_bytes():
    assert weight_bytes(nn.ReLU()) == 0


def test_the_peak_is_that_of_a_fresh_process_and_of_its_two_parts(prepare):
    """Ones of 40 MB are made; the passes make as much again and let it go."""
    ballast = torch.ones(BYTES_OF_ONES // 2)  # what this process holds is none of it
    found = peak_memory(partial(prepare.held, BYTES_OF_ONES // 4))
    assert found.prepared == pytest.approx(BYTES_OF_ONES, rel=0.1)
    if found.running is not None:
        assert found.running == pytest.approx(2 * BYTES_OF_ONES, rel=0.1)
    assert ballast.sum() > 0


def test_what_was_needed_only_to_prepare_is_not_in_the_passes(prepare):
    found = peak_memory(partial(prepare.let_go, BYTES_OF_ONES // 4))
    assert found.prepared == pytest.approx(BYTES_OF_ONES, rel=0.1)
    if found.running is not None:
        assert found.running < 0.1 * BYTES_OF_ONES


def test_a_process_that_fails_says_why(prepare):
    with pytest.raises(TersorError, match=r"ended with code 1: ValueError: no network here"):
        peak_memory(prepare.fail)


def test_the_peak_of_a_part_is_left_out_where_the_system_cannot_tell_it(
    prepare, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_forget_peak", lambda: False)
    memory._child(partial(prepare.held, 1000))
    printed = capsys.readouterr().out
    assert '"running": null' in printed
    assert "ru_maxrss of getrusage" in printed

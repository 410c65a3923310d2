import time

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.measure import latency


class Clock:
    """A clock that moves only when a network works: by 1, 2, 3, ... milliseconds a pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.passes = 0
        self.threads = 0

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.passes += 1
        self.threads = torch.get_num_threads()
        self.clock.now += self.passes / 1000
        return x


@pytest.fixture
def slow(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return Slow(clock)


def test_percentiles_are_those_of_known_durations(slow):
    found = latency(slow, torch.zeros(3, 2), runs=101, warmup=0)  # 1, 2, ... 101 ms
    assert found.p50_ms == pytest.approx(51)
    assert found.p90_ms == pytest.approx(91)
    assert found.p99_ms == pytest.approx(100)
    assert found.mean_ms == pytest.approx(51)
    assert (found.runs, found.batch) == (101, 3)


def test_warm_up_passes_are_run_and_not_timed(slow):
    found = latency(slow, torch.zeros(1, 2), runs=3, warmup=4)  # 5, 6, 7 ms are timed
    assert slow.passes == 7
    assert found.p50_ms == pytest.approx(6)
    assert found.mean_ms == pytest.approx(6)


def test_threads_and_mode_are_as_before(slow):
    before = torch.get_num_threads()
    other = before + 1
    found = latency(slow, torch.zeros(1, 2), runs=1, threads=other)
    assert (slow.threads, found.threads) == (other, other)
    assert torch.get_num_threads() == before
    assert slow.training
    assert latency(slow, torch.zeros(1, 2), runs=1).threads == before


def test_threads_and_mode_are_as_before_when_the_model_fails():
    before = torch.get_num_threads()
    model = nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        latency(model, torch.zeros(1, 2), threads=before + 1)
    assert torch.get_num_threads() == before
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "runs 0, expected 1 or more"),
        ({"warmup": -1}, "warmup -1, expected 0 or more"),
        ({"threads": 0}, "threads 0, expected 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(slow, arguments, message):
    with pytest.raises(ConfigError, match=message):
        latency(slow, torch.zeros(1, 2), **arguments)
    assert slow.passes == 0

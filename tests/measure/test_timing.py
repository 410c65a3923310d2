import time

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.measure import latencies, latency, layer_times


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


class Steady(nn.Module):
    """Takes the same time in every pass, and tells the log that it ran."""

    def __init__(self, clock: Clock, name: str, seconds: float, log: list[str]) -> None:
        super().__init__()
        self.clock, self.name, self.seconds, self.log = clock, name, seconds, log

    def forward(self, x):
        self.log.append(self.name)
        self.clock.now += self.seconds
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_throughput_is_all_samples_by_the_time_of_all_passes(slow):
    found = latency(slow, torch.zeros(3, 2), runs=3, warmup=0)  # 9 samples in 1 + 2 + 3 ms
    assert found.samples_per_second == pytest.approx(9 / 0.006)


def test_models_take_turns_and_each_gets_its_own_time(clock):
    log: list[str] = []
    models = {"a": Steady(clock, "a", 0.001, log), "b": Steady(clock, "b", 0.003, log)}
    found = latencies(models, torch.zeros(4, 2), runs=25, warmup=2)
    assert found["a"].p50_ms == pytest.approx(1)
    assert found["b"].p99_ms == pytest.approx(3)
    assert (found["a"].runs, found["b"].runs, found["b"].batch) == (25, 25, 4)
    # One pass of each turn is not timed; the order is turned round from round to round.
    assert "".join(log[4:]) == "a" * 11 + "b" * 11 + "b" * 11 + "a" * 11 + "a" * 6 + "b" * 6


def test_the_first_pass_of_a_turn_is_not_timed(clock):
    class Cold(nn.Module):
        def forward(self, x):
            clock.now += 1.0 if last[0] is not self else 0.001  # another model filled the cache
            last[0] = self
            return x

    last: list[nn.Module | None] = [None]
    found = latencies({"a": Cold(), "b": Cold()}, torch.zeros(1, 2), runs=30, warmup=0)
    assert found["a"].mean_ms == pytest.approx(1)
    assert found["b"].mean_ms == pytest.approx(1)


def test_nothing_to_time_is_refused():
    with pytest.raises(ConfigError, match="no model to time"):
        latencies({}, torch.zeros(1, 2))


class Nested(nn.Module):
    """`twice` is called twice a pass, `never` not at all; forward itself takes 5 ms."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.inner = nn.Sequential(Steady(clock, "once", 0.002, []))
        self.twice = Steady(clock, "twice", 0.003, [])
        self.never = nn.Linear(2, 2)

    def forward(self, x):
        self.clock.now += 0.005
        return self.twice(self.twice(self.inner(x)))


def test_layers_have_the_time_of_all_their_calls_and_the_whole_has_its_own(clock):
    model = Nested(clock)
    times = layer_times({"net": model}, torch.zeros(1, 2), runs=4)["net"]
    assert times == pytest.approx({"": 13, "inner.0": 2, "twice": 6})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_the_time_of_a_layer_is_the_median_over_the_passes(slow):
    slow.register_forward_pre_hook(lambda module, _: setattr(module, "passes", module.passes**2))
    times = layer_times({"net": nn.Sequential(slow)}, torch.zeros(1, 2), runs=5, warmup=0)
    assert times["net"] == pytest.approx({"": 5, "0": 5})  # of 1, 2, 5, 26, 677


def test_layers_that_are_asked_for_are_timed_and_others_not(clock):
    times = layer_times({"net": Nested(clock)}, torch.zeros(1, 2), layers=["inner"], runs=2)
    assert times["net"] == pytest.approx({"": 13, "inner": 2})


def test_a_module_with_weights_of_its_own_counts_with_what_is_below_it():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        times = layer_times({"net": layer}, torch.zeros(1, 3, 8), runs=2)["net"]
    finally:
        torch.backends.mha.set_fastpath_enabled(mask)
    assert {"self_attn", "linear1", "norm2"} <= set(times)
    assert "self_attn.out_proj" not in times  # attention calls the function, not the module


def test_a_layer_that_is_not_there_is_named_and_no_hook_stays():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="'net' has no module '1'; known: , 0"):
        layer_times({"net": model}, torch.zeros(1, 2), layers=["0", "1"])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer_times({"net": model}, torch.zeros(1, 3))
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks

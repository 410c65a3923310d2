"""The race of calls, by a clock that is set by hand."""

import pytest

from tersor.run import racing
from tersor.run.racing import race


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a call moves it."""

    class Clock:
        now = 0.0
        calls = 0

        def taking(self, *seconds):
            """A call that takes these times in turn, the last one from then on."""
            left = list(seconds)

            def call():
                self.calls += 1
                self.now += left.pop(0) if len(left) > 1 else left[0]

            return call

    made = Clock()
    monkeypatch.setattr(racing.time, "perf_counter", lambda: made.now)
    return made


def test_the_median_of_each_is_given_in_milliseconds(clock):
    times = race({"a": clock.taking(0.01), "b": clock.taking(0.004)})
    assert times == pytest.approx({"a": 10, "b": 4})


def test_a_slow_first_call_and_an_outlier_change_nothing(clock):
    # One call to warm up, one to estimate, then the samples: the third of these is an outlier.
    slow_once = clock.taking(1.0, 0.002, 0.002, 0.002, 0.9, 0.002)
    assert race({"a": slow_once})["a"] == pytest.approx(2)


def test_the_slowest_is_timed_no_more_but_the_first_is(clock):
    far = clock.taking(0.1)
    times = race({"first": far, "fast": clock.taking(0.001), "near": clock.taking(0.0029)})
    assert set(times) == {"first", "fast", "near"}
    times = race({"fast": clock.taking(0.001), "far": far, "near": clock.taking(0.0029)})
    assert times["fast"] < times["near"] < times["far"] == pytest.approx(100)


def test_short_calls_are_repeated_within_a_sample(clock):
    race({"short": clock.taking(1e-6)}, seconds=0.0, least=7)
    assert clock.calls == 2 + 7 * 200  # 200 of them take 0.2 ms

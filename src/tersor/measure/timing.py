"""How long a forward pass takes, as percentiles over many: of one model, of several, of a layer.

Several models are timed in turns within one run: what else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.observing import observing
from tersor.core.threads import threads as core_threads

_TURN = 10
"""Passes of one model in a row: a pass finds its own weights in the cache, as when it is served."""

Timed = TypeVar("Timed")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of `batch` samples.

    Args:
        p50_ms, p90_ms, p99_ms: half, nine in ten, 99 in a hundred of the passes took at most this.
        mean_ms: the mean of all.
        runs: how many passes were timed.
        batch: samples of one pass.
        threads: that torch used on the CPU.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs: int
    batch: int
    threads: int

    @property
    def samples_per_second(self) -> float:
        """Throughput of passes one after the other: all samples by the time of all passes."""
        return 1000 * self.batch / self.mean_ms


def latency(
    model: nn.Module,
    example_input: Tensor,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int | None = None,
) -> Latency:
    """Time forward passes of a model in eval mode, on its own device.

    Afterwards the training flags and torch's number of threads are as they were. Other work on
    the machine shows in the upper percentiles first: compare medians.

    Args:
        model: takes `example_input`.
        example_input: the whole batch, (N, *).
        runs: passes that are timed, 1 or more.
        warmup: passes before those, 0 or more: the first ones pay for memory and code.
        threads: for torch on the CPU; None leaves the number as it is.

    Raises:
        ConfigError: a number is out of its range.

    >>> latency(nn.Linear(8, 2), torch.zeros(4, 8), runs=5).batch
    4
    """
    return latencies({"": model}, example_input, runs=runs, warmup=warmup, threads=threads)[""]


def latencies(
    models: Mapping[str, nn.Module],
    example_input: Tensor,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Time several models on the same input, in turns of ten passes within one run.

    The order of the models is reversed from round to round, and the first pass of a turn is not
    timed: it would pay for the cache that another model has filled.

    Args:
        models: name to model, one or more; a model alone has no turns.
        example_input, runs, warmup, threads: as `latency`, each model alike.

    Raises:
        ConfigError: a number is out of its range, or there is no model.

    >>> found = latencies({"a": nn.Linear(8, 2), "b": nn.ReLU()}, torch.zeros(4, 8), runs=5)
    >>> found["a"].runs, found["b"].runs
    (5, 5)
    """

    def once(name: str, model: nn.Module, batch: Tensor, device: torch.device) -> float:
        start = time.perf_counter()
        model(batch)
        _wait_for(device)
        return time.perf_counter() - start

    with _threads("latency", runs, warmup, threads) as used:
        seconds = _in_turns("latency", models, example_input, runs, warmup, once)
    batch = example_input.shape[0]
    return {name: _latency(found, runs, batch, used) for name, found in seconds.items()}


def layer_times(
    models: Mapping[str, nn.Module],
    example_input: Tensor,
    *,
    layers: Collection[str] | None = None,
    runs: int = 100,
    warmup: int = 10,
    threads: int | None = None,
) -> dict[str, dict[str, float]]:
    """Milliseconds that each layer of each model takes in one pass: the median over the passes.

    A layer that a pass calls several times counts with the sum. The whole model stands under its
    own qualified name, "": what is missing between it and the sum of its layers is what `forward`
    does outside of them, and what the hooks cost (some microseconds a layer). On an accelerator
    each layer is waited for, so layers that would overlap do not.

    Args:
        models: name to model, timed in turns as by `latencies`.
        example_input, runs, warmup, threads: as `latency`.
        layers: qualified names of modules; None takes each that has no modules below it or that
            has parameters of its own (together with what is below it).

    Returns:
        Name of a model to the name of each layer that was called to milliseconds.

    Raises:
        ConfigError: a number is out of its range, or a model has no module of a name.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    >>> list(layer_times({"net": model}, torch.zeros(1, 8), runs=5)["net"])
    ['', '0', '1']
    """
    clocks: dict[str, dict[str, float]] = {name: {} for name in models}

    def once(name: str, model: nn.Module, batch: Tensor, device: torch.device) -> dict[str, float]:
        clocks[name].clear()
        model(batch)
        return dict(clocks[name])

    with _threads("layer_times", runs, warmup, threads), contextlib.ExitStack() as hooks:
        for name, model in models.items():
            wanted = _layers(name, model, layers)
            hooks.enter_context(_clocked(wanted, clocks[name]))
        passes = _in_turns("layer_times", models, example_input, runs, warmup, once)
    return {name: _medians(found) for name, found in passes.items()}


def _in_turns(
    where: str,
    models: Mapping[str, nn.Module],
    example_input: Tensor,
    runs: int,
    warmup: int,
    once: Callable[[str, nn.Module, Tensor, torch.device], Timed],
) -> dict[str, list[Timed]]:
    """What `once` gave for each of `runs` passes of each model."""
    if not models:
        raise ConfigError(f"{where}: no model to time, expected one or more")
    found: dict[str, list[Timed]] = {name: [] for name in models}
    with contextlib.ExitStack() as stack:
        places: dict[str, tuple[nn.Module, Tensor, torch.device]] = {}
        for name, model in models.items():
            device = stack.enter_context(observing(model))
            places[name] = (model, example_input.to(device), device)
            for _ in range(warmup):
                model(places[name][1])
            _wait_for(device)
        order = list(models)
        for done in range(0, runs, _TURN):
            for name in order:
                model, batch, device = places[name]
                if len(order) > 1:
                    model(batch)
                    _wait_for(device)
                for _ in range(min(_TURN, runs - done)):
                    found[name].append(once(name, *places[name]))
            order.reverse()
    return found


@contextlib.contextmanager
def _threads(where: str, runs: int, warmup: int, threads: int | None) -> Iterator[int]:
    """So many threads for torch, after the numbers have been checked; then as many as before."""
    for name, value, least in (("runs", runs, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{where}: {name} {value}, expected {least} or more")
    with core_threads(threads) as used:
        yield used


def _latency(seconds: Sequence[float], runs: int, batch: int, threads: int) -> Latency:
    milliseconds = 1000 * np.array(seconds)
    p50, p90, p99 = (float(p) for p in np.percentile(milliseconds, (50, 90, 99)))
    return Latency(p50, p90, p99, float(milliseconds.mean()), runs, batch, threads)


def _layers(name: str, model: nn.Module, chosen: Collection[str] | None) -> dict[str, nn.Module]:
    """Qualified name to module, the model itself first."""
    modules = dict(model.named_modules())
    if chosen is None:
        chosen = [
            name
            for name, module in modules.items()
            if not any(True for _ in module.children())
            or any(True for _ in module.parameters(recurse=False))
        ]
    for layer in chosen:
        if layer not in modules:
            raise ConfigError(
                f"layer_times: {name!r} has no module {layer!r}; {did_you_mean(layer, modules)}"
            )
    return {layer: modules[layer] for layer in dict.fromkeys(itertools.chain([""], chosen))}


@contextlib.contextmanager
def _clocked(layers: Mapping[str, nn.Module], clock: dict[str, float]) -> Iterator[None]:
    """Hooks that add the seconds of each call to `clock`."""
    handles = []
    for name, module in layers.items():
        started: list[float] = []  # a stack: a module may call itself

        def before(module: nn.Module, inputs: Any, started: list[float] = started) -> None:
            _wait_for(_place(inputs))
            started.append(time.perf_counter())

        def after(
            module: nn.Module,
            inputs: Any,
            output: Any,
            name: str = name,
            started: list[float] = started,
        ) -> None:
            _wait_for(_place(inputs))
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - started.pop()

        handles += [
            module.register_forward_pre_hook(before),
            # First of all hooks: those of others are not the layer's time.
            module.register_forward_hook(after, prepend=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(inputs: tuple[Any, ...]) -> torch.device:
    """The device of the first tensor among the inputs of a layer."""
    first = next((x for x in inputs if isinstance(x, Tensor)), None)
    return torch.device("cpu") if first is None else first.device


def _medians(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median milliseconds of each layer; a pass that did not call it is none of its passes."""
    names = dict.fromkeys(["", *(name for seconds in passes for name in seconds)])
    return {
        name: 1000 * float(np.median([seconds[name] for seconds in passes if name in seconds]))
        for name in names
    }


def _wait_for(device: torch.device) -> None:
    """An accelerator works on after the call has returned; the time ends when it is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

"""The parts of what `tersor bench` shows: times, layers, memory, energy, dense and deployed."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tersor.cli.networks import plain_network
from tersor.core.observing import observing
from tersor.core.report import Report, Value
from tersor.core.threads import threads as core_threads
from tersor.measure import (
    Latency,
    estimate_energy,
    latencies,
    layer_times,
    macs,
    peak_memory,
    rapl,
    weight_bytes,
)
from tersor.measure.energy import MODEL
from tersor.run import Plan, deploy, plan_of
from tersor.run.example import difference
from tersor.store import open_

DENSE, DEPLOYED = "dense", "deployed"

_SKIPPING = ("csr", "sparse", "values")
"""Kernels that multiply with no zero."""

_LAYERS = (
    "A layer's time is the median of its passes, with a microsecond or two for taking it; the rest "
    "is the median of the whole pass, taken without that, less the layers."
)


def time_rows(threads: int, found: Mapping[int, Mapping[str, Latency]]) -> list[dict[str, Value]]:
    """One row for each number of samples."""
    rows: list[dict[str, Value]] = []
    for size, times in found.items():
        row: dict[str, Value] = {"threads": threads, "batch": size}
        for name, took in times.items():
            row |= {
                f"{name} p50 ms": took.p50_ms,
                f"{name} p90 ms": took.p90_ms,
                f"{name} p99 ms": took.p99_ms,
            }
        row["times faster"] = times[DENSE].p50_ms / times[DEPLOYED].p50_ms
        row |= {f"{name} samples/s": took.samples_per_second for name, took in times.items()}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Bench:
    """What is measured with which settings; each method is one part of the report."""

    file: Path
    task_name: str | None
    model_name: str
    network: nn.Module
    samples: Tensor
    sizes: Sequence[int]
    runs: int

    def deploy(self, threads: int, plan: Path | None = None) -> nn.Module:
        _say(f"deploying for {_of(threads, 'thread')}")
        return deploy(
            self.network,
            self.samples,
            batch_sizes=tuple(self.sizes),
            threads=threads,
            plan=plan,
            progress=lambda name, done, count: _say(f"  {done}/{count} {name}"),
        )

    def difference(self, deployed: nn.Module, threads: int) -> float:
        """The largest difference of two outputs, by the largest dense output of the batch."""
        with core_threads(threads), observing(self.network), observing(deployed):
            batches = [self.samples[:size] for size in self.sizes]
            return max(difference(self.network(batch), deployed(batch)) for batch in batches)

    def whole(self, deployed: nn.Module, threads: int) -> dict[int, dict[str, Latency]]:
        """The times of both networks, by the samples of a pass."""
        found = {}
        for size in self.sizes:
            _say(f"timing with {_of(threads, 'thread')}, {_of(size, 'sample')} a pass")
            found[size] = latencies(
                {DENSE: self.network, DEPLOYED: deployed},
                self.samples[:size],
                runs=self.runs,
                threads=threads,
            )
        return found

    def layers(
        self, deployed: nn.Module, threads: int, whole: Mapping[int, Mapping[str, Latency]]
    ) -> Report:
        """One row for each layer with weights, one for all the rest of a pass."""
        plan = plan_of(deployed)
        own = _layers(self.network, plan)
        # What another layer has taken over is an empty module; to time it would be its whole time.
        empty = {n for n, m in deployed.named_modules() if isinstance(m, nn.Identity)}
        timed = [name for layer in own for name in layer.modules]
        rest: dict[str, Value] = {"layer": "(the rest)"}
        for size in self.sizes:
            _say(f"timing layers with {_of(threads, 'thread')}, {_of(size, 'sample')} a pass")
            found = layer_times(
                {DENSE: self.network, DEPLOYED: deployed},
                self.samples[:size],
                layers=timed,
                runs=self.runs,
                threads=threads,
            )
            for kind, times in found.items():
                column = f"{kind} ms, batch {size}"
                there = times.keys() - (empty if kind == DEPLOYED else ())
                for layer in own:
                    called = [times[name] for name in layer.modules if name in there]
                    layer.row[column] = sum(called) if called else None
                spent = sum(times[name] for name in timed if name in there)
                rest[column] = max(0.0, whole[size][kind].p50_ms - spent)
        listed: list[Mapping[str, Value]] = [layer.row for layer in own]
        if "" not in timed:  # else the network has no layers but itself
            listed.append(rest)
        return Report(
            f"Layers, {_of(threads, 'thread')}",
            {},
            listed,
            notes=[_LAYERS, *plan.notes, *_reasons(plan)],
        )

    def memory(self, deployed: nn.Module, threads: int) -> Report:
        rows: list[dict[str, Value]] = []
        how = ""
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder, "plan.json")
            plan_of(deployed).save(plan)
            empty = copy.deepcopy(self.network).to("meta")
            for size in self.sizes:
                common = (self.file, self.task_name, self.model_name, self.samples[:size], threads)
                prepare = {
                    DENSE: partial(dense_passes, *common),
                    DEPLOYED: partial(deployed_passes, empty, plan, tuple(self.sizes), *common),
                }
                for name, network in ((DENSE, self.network), (DEPLOYED, deployed)):
                    _say(f"memory of a process that runs {name}, {_of(size, 'sample')} a pass")
                    peak = peak_memory(prepare[name])
                    how = peak.how
                    rows.append(
                        {
                            "network": name,
                            "batch": size,
                            "weight bytes": weight_bytes(network),
                            "peak bytes, made ready": peak.prepared,
                            "peak bytes, running": peak.running,
                        }
                    )
        note = (
            f"Peaks are of a fresh process that reads the file, by {how}, above what it had with "
            "its modules imported; parts of libraries that are read at first use are in them."
        )
        return Report("Memory", {}, rows, notes=[note])

    def energy(self, deployed: nn.Module, threads: int) -> Report:
        counted = macs(self.network, self.samples)
        skipping = [
            weight
            for layer in plan_of(deployed).layers
            if layer.kernel.partition("/")[0] in _SKIPPING
            for weight in counted.by_weight
            if weight.startswith(f"{layer.name}." if layer.name else "")
        ]
        rows: list[dict[str, Value]] = []
        missing = ""
        for size in self.sizes:
            for name, network, skips in (
                (DENSE, self.network, []),
                (DEPLOYED, deployed, skipping),
            ):
                found = estimate_energy(
                    counted, weight_bytes(network), batch=size, skips_zeros=skips
                )
                row: dict[str, Value] = {
                    "network": name,
                    "batch": size,
                    "estimate: uJ a sample": found.sample_uj,
                    "estimate: arithmetic uJ": found.arithmetic_uj / size,
                    "estimate: weights uJ": found.memory_uj / size,
                }
                with core_threads(threads), observing(network):
                    metered = rapl(partial(network, self.samples[:size]))
                missing = metered.missing
                if metered.joules is not None:
                    row["measured: uJ a sample"] = 1e6 * metered.joules / metered.passes / size
                rows.append(row)
        measured = (
            f"Measured: not available ({missing})."
            if missing
            else "Measured: by RAPL, packages and memory, with all else that ran meanwhile."
        )
        return Report("Energy", {}, rows, notes=[MODEL, measured])


def dense_passes(
    file: Path, task_name: str | None, model_name: str, samples: Tensor, threads: int
) -> Callable[[], object]:
    """In a fresh process: the network of a file, about to take the samples."""
    torch.set_num_threads(threads)
    return partial(plain_network(file, task_name, model_name, samples), samples)


def deployed_passes(
    empty: nn.Module,
    plan: Path,
    sizes: tuple[int, ...],
    file: Path,
    task_name: str | None,
    model_name: str,
    samples: Tensor,
    threads: int,
) -> Callable[[], object]:
    """The same by a plan; from a .terse file weights go straight to the storage of the kernels.

    Args:
        empty: the network on the meta device: made here, it would bring half of torch with it.
    """
    made = partial(deploy, batch_sizes=sizes, threads=threads, plan=plan)
    torch.set_num_threads(threads)
    if file.suffix == ".terse":
        with open_(file) as weights:
            if set(weights) == set(empty.state_dict()):
                return partial(made(empty, samples, weights=weights), samples)
    network = plain_network(file, task_name, model_name, samples)
    return partial(made(network, samples), samples)


def _reasons(plan: Plan) -> list[str]:
    """Why layers stay as they are, each reason once; one for the whole model is a note already."""
    names: dict[str, list[str]] = {}
    for layer in plan.layers:
        if layer.reason and not any(note.startswith(layer.reason) for note in plan.notes):
            names.setdefault(layer.reason, []).append(layer.name or "(the network)")
    return [f"{', '.join(named)}: {reason}" for reason, named in names.items()]


@dataclass(frozen=True)
class _Layer:
    """A row of the table, and the modules whose times it is: the layer and what it takes over."""

    row: dict[str, Value]
    modules: tuple[str, ...]


def _layers(network: nn.Module, plan: Plan) -> list[_Layer]:
    """Those of the plan, and what else has parameters that no planned layer takes over."""
    found: dict[str, _Layer] = {}
    taken: set[str] = set()
    for layer in plan.layers:
        modules = tuple(filter(None, (layer.norm, layer.activation)))
        row: dict[str, Value] = {
            "layer": " + ".join((layer.name or "(the network)", *modules)),
            "kernel": layer.kernel,
            "dense bytes": layer.dense_bytes,
            "deployed bytes": layer.weight_bytes,
        }
        found[layer.name] = _Layer(row, (layer.name, *modules))
        taken |= {layer.name, *modules}
    for name, module in network.named_modules():
        count = sum(p.numel() * p.element_size() for p in module.parameters(recurse=False))
        inside = any(name == t or name.startswith(f"{t}.") for t in taken)
        around = any(True for child in module.children() for _ in child.parameters())
        if count and not inside and not around:
            row = {"layer": name or "(the network)", "kernel": "dense"}
            row |= {"dense bytes": count, "deployed bytes": count}
            found[name] = _Layer(row, (name,))
    order = [name for name, _ in network.named_modules() if name in found]
    return [found[name] for name in order]


def _of(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)

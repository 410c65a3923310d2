"""What `deploy` chose for each layer, and what it measured: printed, saved, and used again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.core.files import replacing
from tersor.core.machine import processor
from tersor.core.report import Report
from tersor.version import __version__

_FORMAT = 1


@dataclass(frozen=True)
class LayerPlan:
    """One layer.

    Args:
        name: qualified name.
        kind: class of the layer.
        kernel: what runs it: "dense" is the layer as it was; "csr" torch's own sparse rows;
            "sparse/4096" entries with codes in tiles of 4,096 columns; "values/4096" entries with
            their values; "scaled/256" entries with integers as codes and a scale for each row;
            "codes" all weights as codes; "row codes" those with a codebook for each row; "int8" as
            integers with a scale for each row, "int4 group 128" with one for each 128 columns of a
            row; "integers" the several matrices of a layer as such.
        density: share of the weights that are not zero.
        weight_bytes, dense_bytes: of the weights in memory, as they are run and in float32.
        milliseconds: candidate to batch size to median time of a call, with what it takes over.
        reason: why it is "dense", or "".
        norm, activation: names of the modules behind it that it takes over, or None.
    """

    name: str
    kind: str
    kernel: str
    density: float
    weight_bytes: int
    dense_bytes: int
    milliseconds: Mapping[str, Mapping[int, float]]
    reason: str = ""
    norm: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a measurement holds for.

    Args:
        processor: its name.
        instructions: the instruction set of the kernels.
        threads: that torch used.
        torch, tersor: versions.
    """

    processor: str
    instructions: str
    threads: int
    torch: str
    tersor: str

    @classmethod
    def here(cls, threads: int) -> Machine:
        return cls(processor(), _native.isa(), threads, torch.__version__, __version__)


@dataclass(frozen=True)
class Plan:
    """What each layer of a model runs on, on one machine.

    Args:
        layers: those with weights, in the order of the model.
        machine: where it was measured.
        batch_sizes: that it was measured for.
        milliseconds: "dense" and "deployed", to batch size, to median time of the whole model.
        difference: largest difference to the dense model's output, relative to its largest value.
        chains: names of linear layers that run in one call, at the place of the first.
        denormals: weights below 1.2e-38 and not zero, which slow a processor down.
        flushed: whether the processor takes denormal numbers as zero, in the thread that asked.
        notes: what a reader must not miss.
    """

    layers: tuple[LayerPlan, ...]
    machine: Machine
    batch_sizes: tuple[int, ...]
    milliseconds: Mapping[str, Mapping[int, float]]
    difference: float
    denormals: int
    flushed: bool
    notes: tuple[str, ...] = ()
    chains: tuple[tuple[str, ...], ...] = ()

    @property
    def threads(self) -> int:
        return self.machine.threads

    @property
    def isa(self) -> str:
        return self.machine.instructions

    def layer(self, name: str) -> LayerPlan | None:
        return next((layer for layer in self.layers if layer.name == name), None)

    def report(self) -> Report:
        """The plan as a table."""
        summary: dict[str, str | int | float | bool | None] = {}
        for batch in self.batch_sizes:
            dense = self.milliseconds.get("dense", {}).get(batch)
            deployed = self.milliseconds.get("deployed", {}).get(batch)
            if dense is not None and deployed is not None:
                summary[f"batch {batch}"] = (
                    f"{dense:.3f} ms dense, {deployed:.3f} ms deployed, {dense / deployed:.2f} x"
                )
        before = sum(layer.dense_bytes for layer in self.layers)
        after = sum(layer.weight_bytes for layer in self.layers)
        summary["weights in memory"] = f"{after:,} of {before:,} bytes"
        summary["largest relative difference"] = f"{self.difference:.1e}"
        summary["denormal weights"] = self.denormals
        summary["denormals are flushed"] = self.flushed
        summary["machine"] = (
            f"{self.machine.processor}, {self.isa}, {self.threads} threads, "
            f"torch {self.machine.torch}"
        )
        return Report("Deploy", summary, [_row(layer) for layer in self.layers], notes=self.notes)

    def __str__(self) -> str:
        return self.report().to_markdown()

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON. StorageError: it cannot be written, and nothing was changed."""
        with replacing(path) as file:
            file.write(self.to_json().encode())


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """A plan that `Plan.save` wrote.

    Raises:
        ConfigError: the file is no plan, or one of another version.
        FileNotFoundError: there is none.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        parts = json.loads(text)
        version = parts.pop("format")
        if version == _FORMAT:
            return _plan_of(parts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no plan of a deployed model ({type(error).__name__}: {error}); "
            "remove it, and it is measured anew"
        ) from None
    raise ConfigError(
        f"{path}: a plan of format {version}, expected {_FORMAT}; remove it, and it is measured "
        "anew"
    )


def _plan_of(parts: dict[str, Any]) -> Plan:
    layers = tuple(
        LayerPlan(**(layer | {"milliseconds": _times(layer["milliseconds"])}))
        for layer in parts.pop("layers")
    )
    return Plan(
        **parts
        | {
            "layers": layers,
            "machine": Machine(**parts["machine"]),
            "batch_sizes": tuple(parts["batch_sizes"]),
            "milliseconds": _times(parts["milliseconds"]),
            "notes": tuple(parts["notes"]),
            "chains": tuple(tuple(names) for names in parts["chains"]),
        }
    )


def _times(parts: Mapping[str, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    return {name: {int(b): float(t) for b, t in times.items()} for name, times in parts.items()}


def _row(layer: LayerPlan) -> dict[str, str | int | float | bool | None]:
    row: dict[str, str | int | float | bool | None] = {
        "layer": layer.name,
        "kind": layer.kind,
        "density": round(layer.density, 4),
        "kernel": layer.kernel,
    }
    for batch, dense in layer.milliseconds.get("dense", {}).items():
        row[f"dense ms, batch {batch}"] = round(dense, 4)
        here = layer.milliseconds.get(layer.kernel, {}).get(batch, dense)
        row[f"deployed ms, batch {batch}"] = round(here, 4)
    row["bytes"] = layer.weight_bytes
    row["dense bytes"] = layer.dense_bytes
    row["why not"] = layer.reason
    return row

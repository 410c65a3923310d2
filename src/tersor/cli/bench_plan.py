"""Where `tersor bench` keeps the plan of a network, and when it is followed instead of measured."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tersor.cli.bench_parts import Bench
from tersor.core.errors import StorageError
from tersor.run import plan_of


def deploy_by_plan(bench: Bench, threads: int, wanted: Path | None) -> tuple[nn.Module, str]:
    """The network deployed, and what became of its plan.

    Args:
        wanted: the file of the plan; None = the one beside the network. That is followed only if
            it is younger than the network, which may have been made anew under the same name; and
            where it cannot be written, the report says so and nothing stops.
    """
    path = bench.file.with_name(f"{bench.file.name}.plan.json") if wanted is None else wanted
    before = _written(path)
    if wanted is not None or (before is not None and before >= bench.file.stat().st_mtime_ns):
        made = bench.deploy(threads, path)
        return made, f"{path}: {'followed' if _written(path) == before else 'measured'}"
    made = bench.deploy(threads)
    try:
        plan_of(made).save(path)
    except StorageError as error:
        return made, f"measured, not kept: {error}"
    return made, f"{path}: measured"


def _written(path: Path) -> int | None:
    """When, in nanoseconds; None if there is no such file."""
    return path.stat().st_mtime_ns if path.is_file() else None

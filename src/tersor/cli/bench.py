"""`tersor bench`: what a file's network costs to run, as it is and deployed, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from tersor.cli.bench_parts import Bench, time_rows
from tersor.cli.door import guarded
from tersor.cli.networks import network_of
from tersor.cli.options import DataDir, Json
from tersor.cli.showing import show
from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.measure.machine import machine
from tersor.tasks import MODELS, TASKS, Task

_ALIKE = 1e-3
"""Relative difference of the outputs above which the report warns: sums in another order are not
that far apart in float32."""


@guarded
def bench_command(
    file: Annotated[Path, typer.Argument(help="A network: .terse, .safetensors or .pt.")],
    batch_size: Annotated[
        list[int] | None,
        typer.Option(help="Samples a pass; may be given several times. Default: 1 and 16."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads on the CPU; may be given several times. Default: torch's."),
    ] = None,
    runs: Annotated[int, typer.Option(help="Passes of each network that are timed.")] = 200,
    layers: Annotated[bool, typer.Option(help="Also time each layer.")] = True,
    memory: Annotated[
        bool, typer.Option(help="Also take the peak memory, in fresh processes.")
    ] = True,
    energy: Annotated[
        bool, typer.Option(help="Also estimate the energy, and measure it if there is a meter.")
    ] = True,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The plan of an earlier run: what is deployed by it needs no search. Where there "
            "is none, or it is of another machine or of other sizes, it is written.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(TASKS)}. Default: what the .terse file says."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(MODELS)}. Default: what the .terse file says."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Time a network as torch runs it against the same network deployed, layer by layer.

    Both are timed in turns within one run, on samples of the validation set. Also: the peak memory
    of a process that runs only one of them, an estimate of the energy, and how far the outputs
    are from each other.

    Examples:

      tersor compress && tersor bench digits-lenet-300-100.terse

      tersor bench net.terse --batch-size 1 --batch-size 64 --threads 1 --threads 4 --no-energy
    """
    sizes = _wanted("--batch-size", batch_size, [1, 16])
    counts = _wanted("--threads", threads, [torch.get_num_threads()])
    _wanted("--runs", [runs], [])
    if plan is not None and len(counts) > 1:
        raise ConfigError(f"--plan {plan}: is for one number of threads, give --threads once")
    network, task_name, model_name, data = network_of(file, task, model, data_dir)
    bench = Bench(file, model_name, network, _samples(data, max(sizes)), sizes, runs, plan)
    deployed = {count: bench.deploy(count) for count in counts}
    difference = max(bench.difference(deployed[count], count) for count in counts)
    times = {count: bench.whole(deployed[count], count) for count in counts}
    rows = [row for count in counts for row in time_rows(count, times[count])]
    sections = [bench.layers(deployed[n], n, times[n]) for n in counts if layers]
    if memory:
        sections.append(bench.memory(deployed[counts[0]], counts[0]))
    if energy:
        sections.append(bench.energy(deployed[counts[0]], counts[0]))
    sections.append(Report("Machine", machine()))
    summary: dict[str, Value] = {
        "task": task_name,
        "model": model_name,
        "file bytes": file.stat().st_size,
        "timed passes of each": runs,
        "outputs differ by, relative": difference,
    }
    notes = ["Times are of a whole batch; faster: the medians of dense by deployed."]
    if not difference <= _ALIKE:
        notes.append(f"The deployed network answers differently: more than {_ALIKE:g} apart.")
    show(Report(f"Bench of {file.name}", summary, rows, notes=notes, sections=sections), as_json)


def _wanted(option: str, numbers: list[int] | None, default: list[int]) -> list[int]:
    """Each number once, in the order in which they were given."""
    for number in numbers or default:
        if number < 1:
            raise ConfigError(f"{option} {number}: expected 1 or more")
    return list(dict.fromkeys(numbers or default))


def _samples(task: Task, count: int) -> Tensor:
    """The first inputs of the validation set, from the beginning again where they are too few."""
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        for inputs, _ in task.validation:
            found.append(inputs)
            if sum(map(len, found)) >= count:
                break
    return torch.cat(found)[:count].contiguous()

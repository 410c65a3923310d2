"""`tersor bench`: what a file's network costs to run, as it is and deployed, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from tersor.cli.bench_parts import Bench, time_rows
from tersor.cli.bench_plan import deploy_by_plan
from tersor.cli.door import guarded
from tersor.cli.networks import plain_network
from tersor.cli.options import DataDir, Json, OfTask
from tersor.cli.showing import show
from tersor.core.errors import ConfigError, DataError
from tersor.core.report import Report, Value
from tersor.measure.machine import machine
from tersor.store import metadata
from tersor.tasks import INPUT_SHAPES, MODELS, VOCABULARIES, Task, load_task

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
            "is none, or it is of another machine or of other sizes, it is written. Default: the "
            "network's name with .plan.json behind it.",
        ),
    ] = None,
    no_plan: Annotated[
        bool, typer.Option("--no-plan", help="Search for the kernels anew, and keep no plan.")
    ] = False,
    task: OfTask = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(MODELS)}; or a function without arguments that builds a "
            "network of your own, as module:function. Default: what the .terse file says."
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="SIDES",
            help="Of one sample, as 3,224,224: then samples are random and no data is read. "
            "Default: samples of the task.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Time a network as torch runs it against the same network deployed, layer by layer.

    Both are timed in turns within one run, on samples of the validation set, or on random ones
    where the data is not there. Also: the peak memory of a process that runs only one of them, an
    estimate of the energy, and how far the outputs are from each other.

    Examples:

      tersor compress && tersor bench digits-lenet-300-100.terse

      tersor bench net.terse --batch-size 1 --batch-size 64 --threads 1 --threads 4 --no-energy

      tersor bench model.safetensors --model mine:build --input-shape 3,224,224
    """
    sizes = _wanted("--batch-size", batch_size, [1, 16])
    counts = _wanted("--threads", threads, [torch.get_num_threads()])
    _wanted("--runs", [runs], [])
    if plan is not None and len(counts) > 1:
        raise ConfigError(f"--plan {plan}: is for one number of threads, give --threads once")
    if plan is not None and no_plan:
        raise ConfigError(f"--plan {plan} and --no-plan: expected one of them")
    said = metadata(file) if file.suffix == ".terse" else {}
    task_name, model_name = task or said.get("task"), model or said.get("model")
    if model_name is None:
        raise ConfigError(f"{file}: does not say for which model it is; give --model")
    samples, kind = _samples(file, task_name, input_shape, data_dir, max(sizes))
    network = plain_network(file, task_name, model_name, samples)
    bench = Bench(file, task_name, model_name, network, samples, sizes, runs)
    deployed, kept = {}, "not kept"
    for count in counts:
        if no_plan or count != counts[0]:  # a plan holds for one number of threads
            deployed[count] = bench.deploy(count)
        else:
            deployed[count], kept = deploy_by_plan(bench, count, plan)
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
        "samples": kind,
        "plan": kept,
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


def _samples(
    file: Path, task: str | None, shape: str | None, data_dir: str | None, count: int
) -> tuple[Tensor, str]:
    """So many inputs, and what they are."""
    if shape is not None:
        return _random(count, _sides(shape)), "random"
    if task is None:
        raise ConfigError(
            f"{file}: does not say for which task it is; give --task, or --input-shape"
        )
    try:
        return _first(load_task(task, data_dir=data_dir), count), "of the validation set"
    except DataError:
        # How long a pass takes does not depend on what is in the picture.
        sides = INPUT_SHAPES[task]
        if task in VOCABULARIES:
            tokens = torch.randint(VOCABULARIES[task], (count, *sides), generator=_seeded())
            return tokens, "random, as the data is not there"
        return _random(count, sides), "random, as the data is not there"


def _sides(shape: str) -> tuple[int, ...]:
    parts = shape.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--input-shape {shape}: expected numbers, such as 3,224,224")
    return tuple(int(part) for part in parts)


def _random(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *shape, generator=_seeded())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _first(task: Task, count: int) -> Tensor:
    """The first inputs of the validation set, from the beginning again where they are too few."""
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        for inputs, _ in task.validation:
            found.append(inputs)
            if sum(map(len, found)) >= count:
                break
    return torch.cat(found)[:count].contiguous()

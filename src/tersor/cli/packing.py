"""Commands for checkpoints: pack, unpack, verify."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tersor.cli.door import guarded
from tersor.cli.options import Json
from tersor.cli.showing import show
from tersor.store import pack, unpack, verify
from tersor.store.convert import Watch, opened_base

Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="PATH",
        help="A file or folder with the tensors that this one was made from, as the pretrained "
        "ones. What is close to it is stored as the difference, and read only with it.",
    ),
]


@guarded
def pack_command(
    source: Annotated[
        Path, typer.Argument(help="A .safetensors, .pt, .pth, .bin or .ckpt file, or a folder.")
    ],
    target: Annotated[Path, typer.Argument(help="The .terse file to write.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="Where in a torch checkpoint the tensors are."),
    ] = None,
    base: Base = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="A file that is read faster, and is somewhat larger.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read it back and compare every bit.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a checkpoint, or a folder with all of its files, as one .terse file without any loss.

    Examples:

      tersor pack model.safetensors model.terse

      tersor pack folder model.terse

      tersor pack tuned model.terse --base pretrained
    """
    with _bar(f"pack {source.name}") as watch:
        report = pack(source, target, key=key, base=base, fast=fast, verify=check, watch=watch)
    show(report, as_json)


@guarded
def unpack_command(
    source: Annotated[Path, typer.Argument(help="A .terse file.")],
    target: Annotated[
        Path,
        typer.Argument(help="The .safetensors, .pt, .pth, .bin or .ckpt file, or the folder."),
    ],
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Write the tensors of a .terse file as a plain checkpoint, or as the folder that they were."""
    with _bar(f"unpack {source.name}") as watch:
        report = unpack(source, target, base=base, watch=watch)
    show(report, as_json)


@guarded
def verify_command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Decode every tensor of a .terse file, and check all that can be checked."""
    with opened_base(base) as under:
        report = verify(file, base=under)
    show(report, as_json)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Watch | None]:
    """A bar on a terminal, on stderr; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=1.0, name="")
        yield lambda name, share: progress.update(task, completed=share, name=name)

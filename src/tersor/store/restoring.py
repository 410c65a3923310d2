"""Write the files of a folder again, or one safetensors file, from an open `.terse` file."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.core.files import replacing
from tersor.core.report import Value
from tersor.store import safetensors_files
from tersor.store.layout import FOLDER, FolderLayout, KeptFile, TensorFile, unsqueeze
from tersor.store.loading import Reader
from tersor.store.sources import TORCH_SUFFIXES

Read = Callable[[str], Tensor]


def write_folder(
    reader: Reader, read: Read, layout: FolderLayout, folder: Path
) -> list[dict[str, Value]]:
    """Make a folder and its files.

    Args:
        reader: an open `.terse` file.
        read: gives a tensor of it by its name there.
        layout: that in its metadata.

    Returns:
        For each file its path, how many tensors it has, and its bytes.

    Raises:
        FormatError: the layout and the tensors do not fit together.
        StorageError: the disk refuses it.
    """
    folder.mkdir()
    rows: list[dict[str, Value]] = []
    for file, names in layout.parts(list(reader)):
        path = folder.joinpath(*file.path.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # where upper and lower case are one
            raise StorageError(f"{file.path}: another file of that name is there on this system")
        with replacing(path) as target:
            if isinstance(file, KeptFile):
                _write_kept(target, file, reader, read, names[0])
            elif path.suffix == ".safetensors":
                write_safetensors(
                    target,
                    reader,
                    read,
                    names,
                    file.metadata,
                    prefix=file.prefix,
                    header=file.header,
                )
            elif path.suffix in TORCH_SUFFIXES:
                write_torch(target, _torch_state(file, reader, read, names))
            else:
                raise FormatError(f"{FOLDER}: {file.path!r} is no name of a file of tensors")
        tensors = None if isinstance(file, KeptFile) else file.tensors
        rows.append({"file": file.path, "tensors": tensors, "bytes": path.stat().st_size})
    return rows


def write_safetensors(
    target: BinaryIO,
    reader: Reader,
    read: Read,
    names: Sequence[str],
    metadata: Mapping[str, str],
    *,
    prefix: str = "",
    header: str | None = None,
) -> int:
    """Write some tensors of an open `.terse` file as safetensors, decoded one at a time.

    Args:
        reader, read: as for `write_folder`.
        names: theirs in the `.terse` file, with the prefix.
        header: squeezed, where the usual one is not wanted.

    Returns:
        The bytes of the file.

    Raises:
        FormatError: the header is not one of these tensors.
        ConfigError: safetensors has no such dtype.
    """
    kinds = {name.removeprefix(prefix): (reader.dtype(name), reader.shape(name)) for name in names}
    if header is None:
        octets = safetensors_files.canonical_header(kinds, metadata)
    else:
        octets = unsqueeze(header)
    places, _ = safetensors_files.parse_header(octets)
    if {place.name: (place.dtype, place.shape) for place in places} != kinds:
        raise FormatError("a safetensors header is not that of the tensors that are there")
    tensors = (read(prefix + place.name) for place in places)
    return safetensors_files.write(target, octets, tensors)


def write_torch(target: BinaryIO, state: Mapping[str, Tensor]) -> None:
    """Write tensors as a torch checkpoint.

    Raises:
        ConfigError: torch cannot save such a dtype.
    """
    try:
        torch.save(state, target)
    except KeyError as error:
        raise ConfigError(f"torch.save cannot hold these tensors ({error.args[0]})") from error


def _torch_state(
    file: TensorFile, reader: Reader, read: Read, names: Sequence[str]
) -> OrderedDict[str, Tensor]:
    earlier = {number: of for number, of in file.ties}
    state: OrderedDict[str, Tensor] = OrderedDict()
    for number, name in enumerate(names):
        of = earlier.get(number)
        if of is None:
            tensor = read(name)
        elif not 0 <= of < number or _kind(reader, name) != _kind(reader, names[of]):
            raise FormatError(f"{FOLDER}: {name!r} is tied to number {of}, which is no such tensor")
        else:
            tensor = state[names[of].removeprefix(file.prefix)]
        state[name.removeprefix(file.prefix)] = tensor
    if file.versions is not None:
        state._metadata = OrderedDict(file.versions)  # type: ignore[attr-defined]
    return state


def _kind(reader: Reader, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    return reader.dtype(name), reader.shape(name)


def _write_kept(target: BinaryIO, file: KeptFile, reader: Reader, read: Read, name: str) -> None:
    dtype, shape = _kind(reader, name)
    if dtype != torch.uint8 or len(shape) != 1 or (not file.deflated and shape[0] != file.bytes):
        raise FormatError(f"{FOLDER}: {name!r} is no tensor of the {file.bytes} bytes of a file")
    data = read(name).numpy()
    if not file.deflated:
        target.write(data.data)
        return
    written = 0
    for piece in _inflated(data.tobytes(), name):
        written += target.write(piece)
        if written > file.bytes:
            break
    if written != file.bytes:
        raise FormatError(f"{FOLDER}: {name!r} does not inflate to {file.bytes} bytes")


def _inflated(data: bytes, name: str) -> Iterator[bytes]:
    """A deflated file, a MB at a time."""
    inflater = zlib.decompressobj(-15)
    try:
        while not inflater.eof:
            piece = inflater.decompress(data, 1 << 20)
            data = inflater.unconsumed_tail
            if not piece and not data and not inflater.eof:
                break
            yield piece
    except zlib.error as error:
        raise FormatError(f"{FOLDER}: {name!r} cannot be inflated ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise FormatError(f"{FOLDER}: {name!r} is cut short, or has bytes after its end")

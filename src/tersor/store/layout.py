"""How the files of a folder lie in one `.terse` file: written into its metadata.

The tensors of the `.terse` file stand in the order of the folder's files. A file of tensors has
the next so many of them, every other file is one tensor of bytes.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from tersor.core.errors import ConfigError, FormatError

FOLDER = "tersor.folder"  # key of the metadata: a FolderLayout
HEADER = "tersor.header"  # key of the metadata of a single safetensors file: its header, squeezed

_MAX_HEADER_BYTES = 100_000_000  # as safetensors has it
_MAX_DEPTH, _MAX_PATH = 32, 1000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TensorFile(_Strict):
    """A safetensors file or a torch checkpoint of the folder.

    Args:
        path: within the folder, with slashes.
        tensors: how many of the tensors it has.
        prefix: stands before its names in the `.terse` file, where another file has such names.
        metadata: of a safetensors file.
        header: of a safetensors file, squeezed, where it is not as the library writes it.
        ties: of a torch checkpoint: number of a tensor within the file, and of the earlier one that
            it is.
        versions: of a torch checkpoint: those of the modules.
    """

    path: str
    tensors: Annotated[int, Field(ge=0)]
    prefix: str = ""
    metadata: dict[str, str] = {}
    header: str | None = None
    ties: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    versions: dict[str, dict[str, int | bool | float | str | None]] | None = None


class KeptFile(_Strict):
    """Any other file: its bytes are one tensor.

    Args:
        path: within the folder, with slashes.
        bytes: its length.
        deflated: the tensor is a raw deflate stream of them.
    """

    path: str
    bytes: Annotated[int, Field(ge=0)]
    deflated: bool = False

    @property
    def tensors(self) -> int:
        """How many tensors it has: one, its bytes."""
        return 1


class FolderLayout(_Strict):
    """The files of a folder, in the order of their tensors."""

    files: list[TensorFile | KeptFile]

    def parts(self, names: Sequence[str]) -> Iterator[tuple[TensorFile | KeptFile, Sequence[str]]]:
        """Each file with the names of its tensors in the `.terse` file.

        Args:
            names: of all tensors of the `.terse` file, in its order.

        Raises:
            FormatError: there are more or fewer of them, or a name is not as the layout says.
        """
        expected = sum(file.tensors for file in self.files)
        if expected != len(names):
            raise FormatError(f"its files have {expected} tensors, but there are {len(names)}")
        start = 0
        for file in self.files:
            part = names[start : start + file.tensors]
            start += file.tensors
            if isinstance(file, TensorFile):
                for name in part:
                    if not name.startswith(file.prefix):
                        raise FormatError(f"{name!r} of {file.path!r} lacks {file.prefix!r}")
            yield file, part

    def weights(self, names: Sequence[str]) -> list[str]:
        """The names of those tensors that are no kept files.

        Args, Raises: as `parts`.
        """
        parts = self.parts(names)
        return [name for file, part in parts if isinstance(file, TensorFile) for name in part]


def layout_of(metadata: Mapping[str, Any]) -> FolderLayout | None:
    """The layout in the metadata of a `.terse` file; None if that was no folder.

    Raises:
        FormatError: it is damaged, or a path in it leads out of the folder.
    """
    plain = metadata.get(FOLDER)
    if not isinstance(plain, dict):
        return None
    try:
        layout = FolderLayout.model_validate(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(f"{FOLDER}.{where}: {first['msg']}") from None
    try:
        check_paths([file.path for file in layout.files])
    except ConfigError as error:
        raise FormatError(f"{FOLDER}: {error}") from None
    return layout


def check_paths(paths: Sequence[str]) -> None:
    """See that files of these paths can be made, all of them within a folder and apart.

    Raises:
        ConfigError: one leads out of the folder, is no name on every system, comes twice, or is at
            once a file and a folder.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        parts = path.split("/")
        odd = len(parts) > _MAX_DEPTH or len(path) > _MAX_PATH
        odd |= any(c in '\\:*?"<>|' or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in path)
        if odd or any(not part.strip(" .") for part in parts):
            raise ConfigError(
                f"the path {path!r:.200} is none within a folder on every system. Expected at most "
                f"{_MAX_DEPTH} names with slashes between them, without '..', \\ : * ? \" < > |"
            )
        if path in files:
            raise ConfigError(f"the path {path!r} comes twice")
        files.add(path)
        folders.update(str(parent) for parent in PurePosixPath(path).parents)
    if clash := files & folders:
        raise ConfigError(f"the path {min(clash)!r} is a file and a folder")


def squeeze(header: bytes) -> str:
    """A header as text: deflated, in base 64."""
    return base64.b64encode(zlib.compress(header, 9)).decode()


def unsqueeze(text: object) -> bytes:
    """The header that `squeeze` was given.

    Raises:
        FormatError: it is damaged, or longer than a header may be.
    """
    if not isinstance(text, str):
        raise FormatError(f"a header is {text!r:.40}, expected a text")
    inflater = zlib.decompressobj()
    try:
        header = inflater.decompress(base64.b64decode(text, validate=True), _MAX_HEADER_BYTES)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"a header cannot be read ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise FormatError("a header is cut short, or longer than it may be")
    return header

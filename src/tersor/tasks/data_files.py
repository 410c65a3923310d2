"""Where the files of a data set lie, and their bytes, checksum first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from tersor.core.errors import DataError

Folder = str | os.PathLike[str]


def find_files(
    title: str, name: str, wanted: Mapping[str, str], data_dir: Folder | None
) -> dict[str, Path]:
    """The path of each wanted file, in `data_dir/name` or in `data_dir` itself.

    Args:
        title: the data set, as messages call it.
        name: of its folder.
        wanted: file name to checksum; only the names are used.
        data_dir: without it the environment variable TERSOR_DATA, else `data`.

    Raises:
        DataError: a file is not there.
    """
    folder = Path(data_dir or os.environ.get("TERSOR_DATA") or "data")
    found: dict[str, Path] = {}
    for file in wanted:
        places = [folder / name / file, folder / file]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            raise DataError(
                f"{title}: {file!r} is not in '{folder / name}'. "
                "Put it there, or say where: --data-dir, TERSOR_DATA"
            )
        found[file] = path
    return found


def read_checked(path: Path, sha256: str) -> bytes:
    """The bytes of a file that has this checksum.

    Raises:
        DataError: it cannot be read, or the checksum is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path}: SHA-256 is {found}, expected {sha256}. "
            "The file is damaged or another one: get it again"
        )
    return data

"""Files are replaced whole: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tersor.core.errors import StorageError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    When the block raises (an interrupt, a full disk), the temporary file is removed and what
    stood at `path` is untouched.

    Raises:
        StorageError: the folder does not exist, or the disk is full or refuses the write.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise StorageError(f"{target}: is a folder, expected the name of a file")
    if target.exists() and not target.is_file():
        raise StorageError(f"{target}: is a device or a pipe, expected the name of a file")
    if not target.parent.is_dir():
        raise StorageError(f"{target}: the folder {str(target.parent)!r} does not exist")
    aside: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        aside = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(_mode(target))
        aside.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "nothing was changed. Free some space, or choose another place"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def aside(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """A free name on the same disk, whose file or folder takes the place of `path` at the end.

    A file takes the place of a file, a folder only that of nothing or of an empty folder. When
    the block raises, what was made is removed and what stood at `path` is untouched.

    Raises:
        StorageError: there is something at `path` that must not go, or the disk refuses.
    """
    target = Path(path).resolve()
    if target.is_dir() and (not folder or any(target.iterdir())):
        wanted = "a new or an empty one" if folder else "the name of a file"
        raise StorageError(f"{target}: is a folder, expected {wanted}")
    if target.exists() and not target.is_dir() and (folder or not target.is_file()):
        raise StorageError(f"{target}: is there already and cannot be replaced")
    if not target.parent.is_dir():
        raise StorageError(f"{target}: the folder {str(target.parent)!r} does not exist")
    room: Path | None = None
    try:
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        made = room / target.name
        yield made
        if target.is_dir():
            target.rmdir()  # it is empty
        elif not folder:
            made.chmod(_mode(target))
        made.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{target}: cannot be written ({error.strerror or error}); nothing was changed"
        ) from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all.

    Raises:
        StorageError: as `replacing`.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def _mode(target: Path) -> int:
    """The permissions of the file that is replaced, else those of any new file (mkstemp's 0600)."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

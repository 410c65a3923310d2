import errno
import os
from pathlib import Path

import pytest

from tersor.core.errors import StorageError
from tersor.core.files import aside, replacing, write_text


@pytest.fixture
def old(tmp_path) -> Path:
    """A file with something in it, alone in its folder."""
    path = tmp_path / "model.terse"
    path.write_bytes(b"old")
    return path


def untouched(path: Path) -> bool:
    """The file is as it was and nothing lies beside it."""
    return path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_what_was_written_takes_the_place_of_the_old_file(old):
    with replacing(old) as file:
        file.write(b"ne")
        assert old.read_bytes() == b"old"  # until the end
        file.write(b"w")
    assert old.read_bytes() == b"new"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupt_or_an_error_leaves_the_old_file_and_nothing_else(old, kind):
    def write() -> None:
        with replacing(old) as file:
            file.write(b"half of it")
            file.flush()
            raise kind

    with pytest.raises(kind):
        write()
    assert untouched(old)


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_full_disk_names_file_and_reason_and_leaves_the_old_file(old, call, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "replace":
        monkeypatch.setattr(Path, "replace", full)
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", full)

    def write() -> None:
        with replacing(old) as file:
            file.write(b"new")
            if call == "write":
                full()

    with pytest.raises(StorageError, match=r"model\.terse.*No space left.*nothing was changed"):
        write()
    monkeypatch.undo()
    assert untouched(old)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_really_refuses_the_bytes_is_a_storage_error(old, monkeypatch):
    fdopen = os.fdopen

    def on_a_full_disk(descriptor, mode):
        os.close(descriptor)
        return fdopen(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    with pytest.raises(StorageError, match="No space left"), replacing(old) as file:
        file.write(b"x" * 1_000_000)
    monkeypatch.undo()
    assert untouched(old)


def test_a_missing_folder_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere' does not exist"):
        write_text(tmp_path / "nowhere" / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(StorageError, match="is a folder"):
        write_text(tmp_path, "text")


def test_permissions_stay_and_a_new_file_gets_the_usual_ones(old):
    old.chmod(0o640)
    write_text(old, "new")
    assert old.stat().st_mode & 0o777 == 0o640
    (old.parent / "plain").touch()
    write_text(old.parent / "fresh", "new")
    assert (old.parent / "fresh").stat().st_mode == (old.parent / "plain").stat().st_mode


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "text", "größer ≤ 40→\n")
    assert (tmp_path / "text").read_bytes() == "größer ≤ 40→\n".encode()


def test_a_link_stays_a_link_and_its_target_is_replaced(old):
    link = old.parent / "latest"
    link.symlink_to(old.name)
    write_text(link, "new")
    assert link.is_symlink()
    assert old.read_text() == "new"


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="pipe: is a device or a pipe"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_made_aside_takes_the_place_of_the_old_one_and_its_permissions(old):
    old.chmod(0o640)
    with aside(old) as path:
        path.write_bytes(b"new")
        assert old.read_bytes() == b"old"  # until the end
    assert old.read_bytes() == b"new"
    assert old.stat().st_mode & 0o777 == 0o640
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("folder", [False, True])
def test_what_was_made_aside_is_gone_after_an_error(old, kind, folder):
    target = old.parent / "model" if folder else old

    def make() -> None:
        with aside(target, folder=folder) as path:
            if folder:
                path.mkdir()
            (path / "half" if folder else path).write_bytes(b"half of it")
            raise kind

    with pytest.raises(kind):
        make()
    assert untouched(old)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_made_aside_takes_the_place_of_nothing_or_of_an_empty_one(there, tmp_path):
    target = tmp_path / "model"
    if there:
        target.mkdir()
    with aside(target, folder=True) as path:
        path.mkdir()
        (path / "a").write_bytes(b"new")
    assert (target / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_never_takes_the_place_of_files(old):
    for target, match in ((old, "is there already"), (old.parent, "expected a new or an empty")):
        with pytest.raises(StorageError, match=match), aside(target, folder=True):
            pass
    with pytest.raises(StorageError, match="expected the name of a file"), aside(old.parent):
        pass
    with pytest.raises(StorageError, match="nowhere"), aside(old.parent / "nowhere" / "x"):
        pass
    assert untouched(old)

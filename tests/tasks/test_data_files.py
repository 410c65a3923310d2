import hashlib
import re

import pytest

from tersor.core.errors import DataError
from tersor.tasks.data_files import find_files, read_checked


def test_the_sets_own_folder_comes_before_the_one_around_it(tmp_path):
    (tmp_path / "set").mkdir()
    for folder in (tmp_path, tmp_path / "set"):
        (folder / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    found = find_files("Set", "set", {"a": "", "b": ""}, tmp_path)
    assert found == {"a": tmp_path / "set" / "a", "b": tmp_path / "b"}


def test_a_file_that_is_not_there_is_named(tmp_path):
    message = (
        f"Set: 'a' is not in '{tmp_path / 'set'}'. "
        "Put it there, or say where: --data-dir, TERSOR_DATA"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        find_files("Set", "set", {"a": ""}, tmp_path)


def test_bytes_are_given_for_their_checksum_alone(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"some bytes")
    found = hashlib.sha256(b"some bytes").hexdigest()
    assert read_checked(path, found) == b"some bytes"
    with pytest.raises(DataError, match=f"a: SHA-256 is {found}, expected {'0' * 64}"):
        read_checked(path, "0" * 64)

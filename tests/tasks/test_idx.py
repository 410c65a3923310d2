import gzip
import hashlib
import struct
from pathlib import Path

import pytest
import torch

from tersor.core.errors import DataError
from tersor.tasks.idx import read_idx

VALUES = bytes(range(6))
GOOD = struct.pack(">4B2I", 0, 0, 8, 2, 3, 2) + VALUES


def write(folder: Path, data: bytes, cut: int | None = None) -> tuple[Path, str]:
    path = folder / "some-idx2-ubyte.gz"
    packed = gzip.compress(data, mtime=0)[:cut]
    path.write_bytes(packed)
    return path, hashlib.sha256(packed).hexdigest()


def test_values_come_row_by_row(tmp_path):
    path, sha256 = write(tmp_path, GOOD)
    values = read_idx(path, sha256=sha256, shape=(3, 2))
    assert values.dtype is torch.uint8
    assert values.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_another_checksum_names_file_expected_and_found(tmp_path):
    path, sha256 = write(tmp_path, GOOD)
    expected = "0" * 64
    with pytest.raises(DataError, match=f"some-idx2.*{sha256}, expected {expected}"):
        read_idx(path, sha256=expected, shape=(3, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\x08\x03" + GOOD[4:], "begins with '00000803', an idx file with '00000802'"),
        (b"\0\0\x0d\x02" + GOOD[4:], "begins with '00000d02'"),
        (b"", "begins with ''"),
        (GOOD[:9], "ends in its header, at byte 9 of 12"),
        (struct.pack(">4B2I", 0, 0, 8, 2, 2, 3) + VALUES, r"\(2, 3\) values, expected \(3, 2\)"),
        (GOOD[:-1], "5 values follow, expected 6"),
        (GOOD + b"\0", "7 values follow, expected 6"),
    ],
)
def test_what_is_not_the_expected_idx_file_is_told(tmp_path, data, message):
    path, sha256 = write(tmp_path, data)
    with pytest.raises(DataError, match=f"some-idx2-ubyte.gz: .*{message}"):
        read_idx(path, sha256=sha256, shape=(3, 2))


def test_a_gzip_file_cut_off_anywhere_is_told(tmp_path):
    for cut in range(len(gzip.compress(GOOD))):
        path, sha256 = write(tmp_path, GOOD, cut)
        with pytest.raises(DataError, match=r"some-idx2-ubyte.gz"):
            read_idx(path, sha256=sha256, shape=(3, 2))


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, sha256="", shape=(3, 2))

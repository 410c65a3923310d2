"""Reads the gzipped idx files of MNIST and its kin, checksum first.

idx: two zero bytes, a type (8: unsigned byte), the number of dimensions, each dimension as four
bytes big endian, then the values, last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tersor.core.errors import DataError
from tersor.tasks.data_files import read_checked

_UNSIGNED_BYTE = 8


def read_idx(path: Path, *, sha256: str, shape: tuple[int, ...]) -> Tensor:
    """The values of a gzipped idx file, uint8.

    Args:
        path: the `.gz` file.
        sha256: checksum that the file, packed as it is, must have.
        shape: dimensions that it must have.

    Raises:
        DataError: the checksum is another one, or the file is cut off or no idx file of `shape`.
    """
    packed = read_checked(path, sha256)
    try:
        data = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is no whole gzip file ({error})") from error
    return _parse(path, data, shape)


def _parse(path: Path, data: bytes, shape: tuple[int, ...]) -> Tensor:
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    if data[:4] != magic:
        raise DataError(f"{path}: begins with {data[:4].hex()!r}, an idx file with {magic.hex()!r}")
    start = 4 + 4 * len(shape)
    if len(data) < start:
        raise DataError(f"{path}: ends in its header, at byte {len(data)} of {start}")
    dims = struct.unpack(f">{len(shape)}I", data[4:start])
    if dims != shape:
        raise DataError(f"{path}: holds {dims} values, expected {shape}")
    if len(data) - start != math.prod(shape):
        raise DataError(f"{path}: {len(data) - start} values follow, expected {math.prod(shape)}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())

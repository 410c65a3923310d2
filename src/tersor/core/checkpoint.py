"""A state (of a training, of masks) in one file, replaced whole and loaded without pickle."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tersor.core.errors import FormatError
from tersor.core.files import replacing


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and mappings of them.

    Raises:
        StorageError: the disk refuses it; the old checkpoint is unchanged.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, tensors on the CPU.

    Raises:
        FormatError: the file is damaged or of another kind.
        OSError: it is not there, or not readable.
    """
    data = io.BytesIO(Path(path).read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of foreign files is in the error
            with zipfile.ZipFile(data) as parts:
                damaged = parts.testzip()  # torch itself does not look at the checksums
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged!r} is wrong")
            data.seek(0)
            state = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead both readers to nearly any kind of error
        raise FormatError(f"{path}: no checkpoint, or a damaged one ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise FormatError(f"{path}: holds a {type(state).__name__}, expected a checkpoint")
    return state


def _reason(error: Exception) -> str:
    """One line; torch's own begins with the advice to run the file's code, which is none."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return text.partition("\n")[0] or type(error).__name__

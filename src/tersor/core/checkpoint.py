"""A state (of a training, of masks) in one file, replaced whole and loaded without pickle."""

from __future__ import annotations

import io
import os
import pickle
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
    """
    try:
        state = torch.load(Path(path), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise FormatError(f"{path}: no checkpoint, or a damaged one ({error})") from error
    if not isinstance(state, dict):
        raise FormatError(f"{path}: holds a {type(state).__name__}, expected a checkpoint")
    return state

"""Proof by bits: what a run starts from, and that a file holds just what was written."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from tersor.core.errors import FormatError
from tersor.store import load


def fingerprint(model: nn.Module) -> str:
    """A hash of the names and bits that a run starts from."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bits(tensor).numpy().tobytes())
    return digest.hexdigest()


def verify(model: nn.Module, file: Path, inputs: Tensor) -> None:
    """Read the file back: every tensor has the same bits, and the network the same answers.

    Raises:
        FormatError: something differs; it is named.
    """
    twin = load(file, into=copy.deepcopy(model))
    state, read = model.state_dict(), twin.state_dict()
    different = [name for name in state if not torch.equal(_bits(state[name]), _bits(read[name]))]
    if not different:
        with torch.no_grad():
            if not torch.equal(_bits(model.eval()(inputs)), _bits(twin.eval()(inputs))):
                different = ["the logits"]
    if different:
        raise FormatError(f"{file}: read back, {', '.join(different)} differ from what was written")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)

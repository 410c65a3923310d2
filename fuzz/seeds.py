"""Good files to damage: small tensors, each in every codec that can represent it, and what
`tersor.save` makes of state dicts with ties, copies, parts and a base."""

from __future__ import annotations

import io
import json
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tersor.store import save
from tersor.store.choose import by_contexts, candidates
from tersor.store.container import Writer
from tersor.store.entries import Header, Part, Stored
from tersor.store.header import DICTIONARY, parse
from tersor.store.streams import encode
from tersor.store.words import grid, to_words

Base = dict[str, Tensor]


@dataclass
class Seed:
    """A file taken apart.

    Args:
        header: as plain data.
        streams: those of each part, in the order of `codecs_in(header)`.
        base: what it was made against, if it was.
    """

    data: bytes
    version: int
    header: dict[str, Any]
    streams: list[bytes]
    base: Base | None


def codecs_in(header: Any) -> list[dict[str, Any]]:
    """The objects of a good header that say how one part is stored, in the order of the streams."""
    entries = [entry for entry in header["tensors"] if "dtype" in entry]
    return [part for entry in entries for part in entry.get("parts", [entry])]


def seeds() -> list[Seed]:
    """All seed files, the same ones at each call; at the end ties, a base, and parts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seed.terse")
        found = [*_every_codec(), *_saved(path)]
    return [old for seed in found if (old := _of_version_1(seed)) is not None] + found


def _tensors() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)

    def sparse(shape: tuple[int, ...], density: float, size: int) -> Tensor:
        book = rng.standard_normal(size)
        values = book[rng.integers(0, size, shape)]
        return torch.tensor(np.where(rng.random(shape) < density, values, 0.0)).float()

    return {
        "pruned": sparse((9, 40), 0.1, 5),
        "filters": sparse((4, 3, 3, 3), 0.4, 3).half(),
        "half": sparse((5, 8), 0.6, 40),
        "noise": torch.from_numpy(rng.standard_normal((6, 7))).float(),
        "brain": torch.from_numpy(rng.standard_normal(90)).bfloat16(),
        "counts": torch.tensor([3, 1, 2, 1] * 20, dtype=torch.int8),
        "wide": torch.tensor([1.0, 0.0, -2.5, 0.0, 0.0, float("nan")], dtype=torch.float64),
        "waves": torch.tensor([1 + 2j, 0j, 0j, -1j] * 3),
        "zeros": torch.zeros(7, 3),
        "one": torch.tensor(5, dtype=torch.int64),
        "none": torch.zeros(0, 3),
    }


def _every_codec() -> list[Seed]:
    """Files of few tensors each, so that one is read fast."""
    entries: list[Stored] = []
    streams: list[bytes] = []
    for name, tensor in _tensors().items():
        words, place = to_words(tensor), grid(tensor.dtype, tuple(tensor.shape))
        codecs = [
            *candidates(words, place, conventions=("gap1", "gap")),
            *by_contexts(words, place),
        ]
        known = set()
        for wanted in codecs:
            codec, data = encode(wanted, words, place)
            if codec in known:
                continue
            part = Part(place, codec, zlib.crc32(data))
            shape = tuple(tensor.shape)
            entries.append(Stored(f"{name}{len(known)}", tensor.dtype, shape, (part,)))
            streams.append(data)
            known.add(codec)
    found = []
    step = -(-len(entries) // 3)
    for at in range(step):  # neighbours are alike: not into one file
        file = io.BytesIO()
        writer = Writer(file)
        for data in streams[at::step]:
            writer.stream(data)
        writer.finish(Header(entries[at::step]))
        found.append(_apart(file.getvalue(), None))
    return found


def _saved(path: Path) -> list[Seed]:
    tensors = _tensors()
    weight = tensors["pruned"]
    ties = {"a": weight, "b": weight, "c": weight.clone(), "d": tensors["brain"]}
    save(ties, path, metadata={"task": "digits", "deep": [{"x": [None, True, 1.5]}]})
    found = [_apart(path.read_bytes(), None)]
    base: Base = {name: tensors[name] for name in ("noise", "brain", "counts", "waves")}
    changed = {name: tensor.clone() for name, tensor in base.items()}
    changed["noise"][2] += 1e-6
    changed["brain"][3] = 0
    changed["counts"][5] += 1
    changed["waves"][1] = 1j
    save(changed, path, base=base)
    found.append(_apart(path.read_bytes(), base))
    long = torch.zeros(2**22 + 50, dtype=torch.int8)
    long[2**22 :] = torch.arange(50)
    save({"long": long, "a": weight}, path)
    return [*found, _apart(path.read_bytes(), None)]


def _apart(data: bytes, base: Base | None) -> Seed:
    length = int.from_bytes(data[8:12], "little")
    text = data[len(data) - length :]
    if data[7]:
        text = zlib.decompressobj(-15, DICTIONARY).decompress(text)
    header = json.loads(text)
    entries = parse(text, False, data[6]).entries
    streams, at = [], 16
    for entry in entries:
        for part in entry.parts if isinstance(entry, Stored) else ():
            streams.append(data[at : at + part.byte_length])
            at += part.byte_length
    return Seed(data, data[6], header, streams, base)


def _of_version_1(seed: Seed) -> Seed | None:
    """The same tensors in a file of version 1, where that has their codecs."""
    codecs = codecs_in(seed.header)
    new = ("map", "planes", "parts", "rans", "context", "lag")
    kept = [
        i for i, codec in enumerate(codecs) if not any(f'"{n}"' in json.dumps(codec) for n in new)
    ]
    if seed.base is not None or not kept:
        return None
    header = {"tensors": [codecs[i] for i in kept]}
    streams = [seed.streams[i] for i in kept]
    return Seed(assemble(1, header, streams), 1, header, streams, None)


def assemble(
    version: int, header: object, streams: list[bytes], *, deflated: bool = False, flags: int = 0
) -> bytes:
    """A file with this header (plain data, or bytes as they are), its own checksum fitting."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if deflated:
        before = () if version == 1 else (zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, *before)
        text = squeezer.compress(text) + squeezer.flush()
    start = b"\x89TERSE" + bytes([version, flags | deflated]) + len(text).to_bytes(4, "little")
    start += zlib.crc32(text, zlib.crc32(start)).to_bytes(4, "little")
    body = b"".join(streams)
    return start + (text + body if version == 1 else body + text)

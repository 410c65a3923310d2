"""Whole files, mutated: each is refused with FormatError, or gives the tensors that it declares.

Case number i is made from i alone, so that a run goes on where another ended:

    python fuzz/mutate.py --count 1_000_000 --seed 0

The file that is being loaded stands in the folder `--keep`: where the process dies (a crash, or the
alarm after 10 seconds) it is still there. Other finds are kept beside it, and end with status 1.
"""

from __future__ import annotations

import argparse
import collections
import copy
import faulthandler
import json
import random
import resource
import signal
import sys
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from seeds import Seed, assemble, codecs_in, seeds

from tersor.core.errors import FormatError
from tersor.store import inspect, load, open_, verify
from tersor.store.entries import Stored
from tersor.store.header import parse
from tersor.store.words import to_words

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
import reference_decoder

SECONDS = 10  # for one file; most take less than a millisecond
LARGEST = 1 << 26  # bytes of tensors that a file may declare to be tried
SLACK = 1 << 26  # bytes: what a header inflates to, at most, with room for its objects
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 16, 255, 256, 1023, 1024, 1025, 4096, 65535, 65536, 2**22, 2**31)
NUMBERS += (2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -1)
ODD = (None, True, False, 1.5, "", "row", [], {}, [0], {"kept": 0}, 10**400, "\ud800", 1e308)
NEST = "@nested@"  # stands for lists in lists, deeper than json.dumps goes
KEYS = ("name", "dtype", "shape", "crc", "mask", "map", "relative", "codebook", "planes", "parts")
KEYS += ("kept", "bytes", "bits", "fillers", "huffman", "rans", "context", "size", "lengths")
KEYS += ("rotate", "order", "convention", "lag", "base", "tied", "copy", "metadata", "tensors")


class Case:
    """A seed that is being changed."""

    def __init__(self, seed: Seed, others: list[Seed], rng: random.Random) -> None:
        self.rng, self.others, self.base = rng, others, seed.base
        self.version, self.flags, self.deflated = seed.version, 0, rng.random() < 0.5
        self.header: Any = copy.deepcopy(seed.header)
        self.streams = list(seed.streams)
        self.codecs = codecs_in(self.header)

    def file(self) -> bytes:
        """All checksums fit, and mostly each stream has the length that the header gives it."""
        if self.rng.random() < 0.8:
            self._fit()
        for codec, stream in zip(self.codecs, self.streams, strict=True):
            if isinstance(codec.get("crc"), int) and self.rng.random() < 0.998:
                codec["crc"] = zlib.crc32(stream)
        return assemble(
            self.version, self.text(), self.streams, deflated=self.deflated, flags=self.flags
        )

    def text(self) -> bytes:
        """The header, with lists that are nested just as deep as a parser may stand."""
        text = json.dumps(self.header, separators=(",", ":")).encode()
        depth = self.rng.choice([self.rng.randrange(850, 1100), self.rng.randrange(5, 3000)])
        return text.replace(f'"{NEST}"'.encode(), b"[" * depth + b"]" * depth)

    def _fit(self) -> None:
        try:
            entries = parse(self.text(), False, self.version).entries
        except FormatError:
            return
        parts = [part for entry in entries if isinstance(entry, Stored) for part in entry.parts]
        if len(parts) != len(self.streams):
            return
        for i, part in enumerate(parts):
            size = min(part.byte_length, 1 << 16)
            if size != len(self.streams[i]):
                more = self.rng.randbytes(max(size - len(self.streams[i]), 0))
                self.streams[i] = (self.streams[i] + more)[:size]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One change: bits or bytes of another value, cut out, put in, doubled."""
    if not data:
        return rng.randbytes(rng.randrange(1, 9))
    out = bytearray(data)
    at = rng.randrange(len(out))
    match rng.randrange(6):
        case 0:
            out[at] ^= 1 << rng.randrange(8)
        case 1:
            out[at] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
        case 2:
            del out[at : at + rng.choice([1, 2, 4, 100])]
        case 3:
            out[at:at] = rng.randbytes(rng.choice([1, 2, 4, 16]))
        case 4:
            end = at + rng.randrange(1, 9)
            out[at:end] = rng.choice([bytes(8), b"\xff" * 8, rng.randbytes(8)])[: len(out[at:end])]
        case _:
            source = rng.randrange(len(out))
            chunk = out[source : source + rng.randrange(1, 33)]
            out[at : at + len(chunk)] = chunk
    return bytes(out)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key) of plain data."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, dict | list):
            yield from places_in(part)


def streams_damaged(case: Case) -> None:
    for _ in range(case.rng.choice([1, 1, 1, 2, 5])):
        full = [i for i, stream in enumerate(case.streams) if stream] or [0]
        i = case.rng.choice(full)
        case.streams[i] = damaged(case.streams[i], case.rng)


def numbers_edited(case: Case) -> None:
    places = list(places_in(case.header))
    numbers = [(o, k) for o, k in places if type(o[k]) is int and k != "crc"]
    for _ in range(case.rng.choice([1, 1, 2, 3]) if numbers else 0):
        where, key = case.rng.choice(numbers)
        old = where[key]
        another = (lambda other, k: other[k])(*case.rng.choice(numbers))
        near = old + case.rng.choice([-1, 1, 2, -2, 8])
        where[key] = case.rng.choice([case.rng.choice(NUMBERS), near, near, 2 * old, another])


def anything_edited(case: Case) -> None:
    rng = case.rng
    for _ in range(rng.choice([1, 1, 2])):
        where, key = rng.choice(list(places_in(case.header)))
        match rng.randrange(6):
            case 0:
                del where[key]
            case 1:
                where[key] = rng.choice(ODD)
            case 2:
                where[key] = NEST
            case 3:
                other, k = rng.choice(list(places_in(case.header)))
                where[key] = copy.deepcopy(other[k])
            case 4 if isinstance(where, dict):
                where[rng.choice(KEYS)] = copy.deepcopy(where[key])
            case _ if isinstance(where, dict):
                where[rng.choice(KEYS)] = rng.choice([*NUMBERS, *ODD])
        if "tensors" not in case.header or not isinstance(case.header["tensors"], list):
            return


def shapes_and_dtypes_edited(case: Case) -> None:
    rng = case.rng
    entries = [e for e in case.header["tensors"] if "shape" in e]
    for entry in rng.sample(entries, min(len(entries), rng.choice([1, 1, 2]))):
        if rng.random() < 0.5:
            other = rng.choice(rng.choice(case.others).header["tensors"])
            entry["dtype"] = other.get("dtype", "int4")
            continue
        shape = entry["shape"]
        match rng.randrange(6):
            case 0:
                rng.shuffle(shape)
            case 1:
                shape.insert(rng.randrange(len(shape) + 1), rng.choice([0, 1, 1, 2, 3]))
            case 2 if shape:
                shape[rng.randrange(len(shape))] = rng.choice(NUMBERS)
            case 3 if shape:  # nothing, but with a side that is long
                shape += [0]
                shape[rng.randrange(len(shape) - 1)] = rng.choice(NUMBERS)
                rng.shuffle(shape)
            case 4:
                shape += [1] * rng.choice([1, 30, 64, 3000])
            case _:
                entry["shape"] = copy.deepcopy(rng.choice(entries)["shape"])


def codecs_exchanged(case: Case) -> None:
    """The codec and streams of another tensor, of this file or another."""
    rng = case.rng
    for _ in range(rng.choice([1, 1, 2])):
        other = rng.choice(case.others)
        theirs = codecs_in(other.header)
        if not theirs or not case.codecs:
            return
        i, j = rng.randrange(len(case.codecs)), rng.randrange(len(theirs))
        mine = case.codecs[i]
        keys = ("mask", "map", "relative", "codebook", "planes")
        half = rng.choice([keys, keys, keys[:3], keys[3:]])  # where words are, what they are
        for key in half:
            mine.pop(key, None)
            if key in theirs[j]:
                mine[key] = copy.deepcopy(theirs[j][key])
        if "dtype" in mine and "dtype" in theirs[j] and rng.random() < 0.7:
            mine["dtype"], mine["shape"] = theirs[j]["dtype"], copy.deepcopy(theirs[j]["shape"])
        if half is keys:
            case.streams[i] = other.streams[j]


def entries_edited(case: Case) -> None:
    rng, tensors = case.rng, case.header["tensors"]
    for _ in range(rng.choice([1, 2])):
        number = rng.randrange(len(tensors) + 1)
        kind = rng.choice(["tied", "copy"])
        name = rng.choice(["new", "", "\0", "a", f"new{number}"])
        tensors.insert(number, {"name": name, kind: rng.choice([*range(len(tensors) + 2), -1])})


def container_edited(case: Case) -> None:
    rng = case.rng
    match rng.randrange(4):
        case 0:
            case.version = rng.choice([0, 1, 1, 2, 3, 255])
        case 1:
            case.flags = rng.choice([2, 4, 128, 254])
        case 2:
            case.streams[rng.randrange(len(case.streams))] += rng.randbytes(rng.choice([1, 9]))
        case _:
            case.base = rng.choice([None, {}, rng.choice(case.others).base])


EDITS: tuple[Callable[[Case], None], ...] = (
    streams_damaged,
    streams_damaged,
    streams_damaged,
    numbers_edited,
    numbers_edited,
    anything_edited,
    shapes_and_dtypes_edited,
    codecs_exchanged,
    codecs_exchanged,
    entries_edited,
    container_edited,
)


def mutated(number: int, good: list[Seed]) -> tuple[str, bytes, Any, bool]:
    """Case `number`: its kind, the file, the base it is loaded with, whether it must be refused."""
    rng = random.Random(number)
    *small, ties, base, _ = good
    seed = rng.choice(rng.choices([small, [ties], [base], good], [88, 5, 6, 1])[0])
    if rng.random() < 0.06:
        data = damaged(seed.data, rng)
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data))] + rng.choice(good).data[rng.randrange(16) :]
        same = any(data == other.data for other in good)
        return "nothing repaired", data, seed.base, not same
    case = Case(seed, good, rng)
    if rng.random() < 0.03:
        text = case.text()
        if rng.random() < 0.3:  # a key twice, or a number that JSON does not have
            old = rng.choice([b'"name":', b'"crc":', b"[", b","])
            text = text.replace(old, rng.choice([b'"name":0,' + old, old + b"NaN", old * 2]), 1)
        else:
            text = damaged(text, rng)
        return "header text", assemble(case.version, text, case.streams), case.base, False
    edits = rng.choices(EDITS, k=rng.choice([1, 1, 1, 2, 3]))
    for edit in edits:
        try:
            edit(case)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError):
            break  # an edit before left no header to edit; what there is is a case
    try:
        data = case.file()
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError):
        data = assemble(case.version, case.text(), case.streams)
    kind = edits[0].__name__.replace("_", " ") if len(edits) == 1 else "several"
    return kind, data, case.base, False


def declared(data: bytes) -> tuple[int, list[tuple[str, str, list[int]]]]:
    """Bytes of all tensors that the header declares, and their names, dtypes and shapes."""
    length = int.from_bytes(data[8:12], "little")
    text = data[16 : 16 + length] if data[6] == 1 else data[len(data) - length :]
    header = parse(text, bool(data[7] & 1), data[6])
    sources = [(entry.name, header.source(entry)) for entry in header.entries]
    kinds = [(name, str(s.dtype)[6:], list(s.shape)) for name, s in sources]
    return header.dense_bytes, kinds


def octets(tensor: torch.Tensor) -> bytes:
    return to_words(tensor).tobytes()


def compare(data: bytes, state: dict[str, torch.Tensor], base: Any) -> None:
    """What the reference decoder reads is the same, and it finds nothing wrong."""
    under = {n: (str(t.dtype)[6:], tuple(t.shape), octets(t)) for n, t in (base or {}).items()}
    tensors, _, _ = reference_decoder.decode(data, under)
    assert list(tensors) == list(state), "other names than the reference decoder"
    for name, (_, _, words) in tensors.items():
        assert octets(state[name]) == words, f"{name!r}: other bits than the reference decoder"


def read_otherwise(
    path: Path, state: dict[str, torch.Tensor] | None, base: Any, dense: int
) -> None:
    """The other ways to read a file find the same; `state` is None where `load` refused it."""
    try:
        verify(path, base=base)
        with open_(path, base=base) as file:
            alone = {name: octets(tensor) for name, tensor in file.items()}
    except FormatError:
        assert state is None, "verify or open_ refuses what load reads"
    else:
        assert state is not None, "verify and open_ read what load refuses"
        assert alone == {name: octets(t) for name, t in state.items()}, "open_ gives other bits"
    try:
        # What other codecs would have cost takes an encoder's time.
        str(inspect(path, codecs=dense < 1 << 20, base=base).report())
    except FormatError:
        assert state is None, "inspect refuses what load reads"


def memory_peak() -> int:
    """Bytes that this process has had in memory, at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(first: int, count: int, keep: Path, share: float) -> int:
    """Try so many cases; how many finds there were."""
    good = seeds()
    current = keep / "current.terse"
    results: collections.Counter[tuple[str, str]] = collections.Counter()
    found: collections.Counter[str] = collections.Counter()
    file = current.open("w+b", buffering=0)
    large = memory_peak()  # grows with what is declared and tried
    begin = said = time.monotonic()
    for number in range(first, first + count):
        kind, data, base, must_fail = mutated(number, good)
        dense, kinds = 0, []
        try:
            dense, kinds = declared(data)
        except (FormatError, IndexError):
            pass
        if dense > LARGEST and dense < 1 << 45:
            results[kind, "not tried: declares more than 64 MiB"] += 1
            continue
        file.seek(0)
        file.write(data)
        file.truncate()
        traced = number % 256 == 0
        if traced:
            tracemalloc.start()
        signal.alarm(SECONDS)
        try:
            state = load(current, base=base)
        except FormatError as error:
            str(error)
            outcome = "refused"
        except Exception as error:
            outcome = f"found: {type(error).__name__}: {error!s:.200}"
            traceback.print_exc()
        else:
            outcome = "read"
            what = [(n, str(t.dtype)[6:], list(t.shape)) for n, t in state.items()]
            if must_fail:
                outcome = "found: damage that no checksum saw"
            elif what != kinds:
                outcome = f"found: {what} instead of {kinds}"
            elif random.Random(number).random() < share and dense < 20_000:
                outcome = "read, compared"
                try:
                    compare(data, state, base)
                except Exception as error:
                    outcome = f"found: {type(error).__name__}: {error!s:.200}"
                    traceback.print_exc()
        if number % 16 == 0 and outcome in ("refused", "read", "read, compared"):
            try:
                read_otherwise(current, None if outcome == "refused" else state, base, dense)
            except Exception as error:
                outcome = f"found: {type(error).__name__}: {error!s:.200}"
                traceback.print_exc()
        signal.alarm(0)
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > 8 * dense + 64 * len(data) + SLACK:
                outcome = f"found: {peak} bytes allocated for {dense}"
        if dense <= LARGEST and outcome.startswith("read"):
            large = max(large, memory_peak())
        if memory_peak() > large + SLACK + (8 * dense if dense <= LARGEST else 0):
            outcome = f"found: memory grew to {memory_peak()} bytes for {dense}"
            large = memory_peak()
        if outcome.startswith("found"):
            found[outcome] += 1
            name = f"found-{number}.terse"
            (keep / name).write_bytes(data)
            print(f"{name}, {kind}: {outcome}", flush=True)
        results[kind, outcome.partition(":")[0]] += 1
        if time.monotonic() > said + 30 or number == first + count - 1:
            said = time.monotonic()
            done = number + 1 - first
            speed = done / (said - begin)
            print(
                f"{done} files, {speed:.0f}/s, found {found.total()}; next {number + 1}", flush=True
            )
    for (kind, outcome), times in sorted(results.items()):
        print(f"{kind:28}{outcome:38}{times:>9}")
    return found.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder of finds")
    parser.add_argument(
        "--compare", type=float, default=0.1, help="share of read files compared with the reference"
    )
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGALRM, chain=True)  # says where, then dies
    found = run(options.seed, options.count, options.keep, options.compare)
    sys.exit(found > 0)


if __name__ == "__main__":
    main()

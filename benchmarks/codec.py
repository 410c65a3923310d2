"""How small a `.terse` file is, and how fast it is read and written, beside its peers.

    python benchmarks/codec.py [--data-dir DIR] [--lenets FOLDER] [--write benchmarks/codec.md]

`--lenets` is a folder with lenet-300-100.terse and lenet-5.terse, as `tersor compress` writes them;
without it the main job on digits stands in their place. Peers compress the safetensors file; zlib
the CSR arrays. Sizes are exact, times are processor time of one thread but where two are said.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tersor import build_model, load_task, seed_everything
from tersor import compress as compress_network
from tersor.compress import read_recipe
from tersor.store import load, metadata, save
from tersor.store.choose import candidates
from tersor.store.codecs import Codebook, Planes, Relative
from tersor.store.entries import Header, Part, Repeated, Stored
from tersor.store.header import DICTIONARY, dump
from tersor.store.words import grid, to_words
from tersor.train import Stepper

PEERS = Path(__file__).with_name("codec_peers.json")
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Tensors to be stored, and what the file may take, as a share of one of the columns."""

    name: str
    state: State
    bar: str = ""
    metadata: Mapping[str, object] | None = None


def resnet18_shapes() -> dict[str, tuple[int, ...]]:
    """The weights of ResNet-18 for 1,000 classes, 11.7 million."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}
    width = 64
    for layer, out in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            inputs = width if block == 0 else out
            shapes[f"layer{layer}.{block}.conv1.weight"] = (out, inputs, 3, 3)
            shapes[f"layer{layer}.{block}.conv2.weight"] = (out, out, 3, 3)
            if block == 0 and inputs != out:
                shapes[f"layer{layer}.{block}.downsample.0.weight"] = (out, inputs, 1, 1)
        width = out
    return shapes | {"fc.weight": (1000, 512)}


def pruned_and_shared(*, clustered: bool, kept: float = 0.1, codes: int = 32) -> State:
    """ResNet-18's shapes, the largest tenth of each weight kept, in a codebook of 32 by k-means.

    Args:
        clustered: rows and columns have scales of their own (log-normal), as trained weights do;
            otherwise all weights are independent.
    """
    from tersor import _native

    draws = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in resnet18_shapes().items():
        weight = torch.randn(shape, generator=draws)
        if clustered:
            for side in (0, 1):
                size = [shape[side] if i == side else 1 for i in range(len(shape))]
                weight *= torch.randn(size, generator=draws).exp()
        flat = weight.abs().flatten()
        cut = flat.kthvalue(round((1 - kept) * flat.numel())).values
        where = weight.abs() > cut
        values = weight[where].double()
        sample = values[torch.randperm(len(values), generator=draws)[:4096]].unique()
        centroids, *_ = _native.kmeans_1d(sample.numpy(), np.empty(0), codes, len(sample))
        middles = torch.from_numpy((centroids[1:] + centroids[:-1]) / 2)
        book = torch.from_numpy(centroids).float()
        shared = torch.zeros(shape)
        shared[where] = book[torch.bucketize(values, middles)]
        state[name] = shared
    return state


def trained(data_dir: str | None) -> tuple[str, State]:
    """A dense network that was trained: on CIFAR-10 where it is, otherwise on digits."""
    seed_everything(0)
    try:
        task = load_task("cifar10", data_dir=data_dir)
        model, name, steps = build_model("vgg-small", input_shape=(3, 32, 32)), "vgg-small", 200
    except Exception as error:
        print(f"CIFAR-10 is not there ({error}); the trained network is one for digits")
        task = load_task("digits")
        shape = tuple(task.example_input.shape[1:])
        model = build_model("lenet-300-100", input_shape=shape)
        name, steps = "lenet-300-100 on digits", 500
    Stepper(model, task, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)).run(steps)
    return f"{name}, {steps} steps", dict(model.state_dict())


def cases(data_dir: str | None, lenets: Path | None, folder: Path) -> list[Case]:
    found = []
    if lenets is None:
        path = folder / "digits.terse"
        seed_everything(0)
        task = load_task("digits")
        model = build_model("lenet-300-100", input_shape=tuple(task.example_input.shape[1:]))
        compress_network(model, task, read_recipe("digits-lenet-300-100"), out=path, verbose=False)
        found.append(Case("digits, pruned LeNet-300-100", load(path), "<= 0.90 of Huffman"))
    else:
        for name in ("lenet-300-100", "lenet-5"):
            path = lenets / f"{name}.terse"
            bar = "<= 0.90 of Huffman"
            found.append(Case(f"MNIST, pruned {name}", load(path), bar, metadata(path)))
    bar = "<= 1,000,000; within 0.5 % of order 0"
    found.append(Case("ResNet-18, independent", pruned_and_shared(clustered=False), bar))
    found.append(Case("ResNet-18, clustered", pruned_and_shared(clustered=True), "below order 0"))
    name, state = trained(data_dir)
    found.append(Case(f"dense fp32: {name}", state, "<= 0.86 of safetensors"))
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
    found.append(Case(f"dense bf16: {name}", half, "<= 0.70 of safetensors"))
    seed_everything(0)
    drawn = dict(build_model("vgg-like", input_shape=(3, 32, 32)).state_dict())
    found.append(Case("dense fp32: vgg-like, as drawn", drawn))
    numbers = torch.Generator().manual_seed(0)
    bits = {"noise": torch.randint(-(2**31), 2**31, (1 << 20,), generator=numbers).int()}
    found.append(Case("random bits", bits, "<= safetensors + 64"))
    return found


def huffman_bytes(case: Case) -> int:
    """Bytes of the file with the codecs of version 1: masks, relative indices, Huffman."""
    entries: list[Stored | Repeated] = []
    for name, tensor in case.state.items():
        lattice = grid(tensor.dtype, tuple(tensor.shape))
        old = [
            codec
            for codec in candidates(to_words(tensor), lattice)
            if not isinstance(codec.values, Planes)
            and not (isinstance(codec.values, Codebook) and codec.values.rans is not None)
            and not (isinstance(codec.positions, Relative) and codec.positions.rans is not None)
        ]
        codec = min(old, key=lambda codec: codec.byte_length(lattice))
        crc = zlib.crc32(tensor.numpy().tobytes()) if tensor.dtype != torch.bfloat16 else 2**31
        entries.append(
            Stored(name, tensor.dtype, tuple(tensor.shape), (Part(lattice, codec, crc),))
        )
    stored, deflated = dump(Header(entries, case.metadata or {}))
    text = zlib.decompressobj(-15, DICTIONARY).decompress(stored) if deflated else stored
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    header = min(len(text), len(squeezer.compress(text) + squeezer.flush()))
    return 16 + header + sum(entry.byte_length for entry in entries if isinstance(entry, Stored))


def order_0_bytes(state: State) -> float:
    """The order-0 entropy of the words of each tensor, without any table or codebook."""
    total = 0.0
    for tensor in state.values():
        words = to_words(tensor)
        if len(words):
            shares = np.unique(words, return_counts=True)[1] / len(words)
            total += len(words) * float(-(shares * np.log2(shares)).sum()) / 8
    return total


def csr_zlib_bytes(state: State) -> int:
    """zlib over values, columns (16 or 32 bits) and row starts of matrices, over all of others."""
    total = 0
    for tensor in state.values():
        array = tensor.numpy().reshape(len(tensor), -1) if tensor.dim() > 1 else tensor.numpy()
        if tensor.dim() < 2:
            total += len(zlib.compress(array.tobytes(), 9))
            continue
        rows, columns = np.nonzero(array)
        kind = np.uint16 if array.shape[1] <= 1 << 16 else np.uint32
        starts = np.searchsorted(rows, np.arange(len(array) + 1)).astype(np.uint32)
        parts = (array[rows, columns], columns.astype(kind), starts)
        total += sum(len(zlib.compress(part.tobytes(), 9)) for part in parts)
    return total


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The least processor time of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def peer(command: list[str], source: Path) -> tuple[int, float, float]:
    """Bytes and processor times of a compressor: `command -c FILE`, `command -dc FILE`."""
    packed = source.with_suffix(".packed")

    def run(arguments: list[str], target: Path) -> float:
        with target.open("wb") as out:
            began = _children()
            subprocess.run([*command, *arguments], stdout=out, check=True)
            return _children() - began

    encode = run(["-c", str(source)], packed)
    decode = run(["-dc", str(packed)], source.with_suffix(".unpacked"))
    return packed.stat().st_size, encode, decode


def _children() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(case: Case, folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A row of sizes and a row of speeds."""
    plain, terse, quick = (folder / n for n in ("x.safetensors", "x.terse", "fast.terse"))
    safetensors.torch.save_file({k: v.contiguous() for k, v in case.state.items()}, plain)
    torch.save(dict(case.state), folder / "x.pt")
    dense = sum(t.numel() * t.itemsize for t in case.state.values())
    began = time.process_time()
    report = save(case.state, terse, metadata=case.metadata)
    encode = time.process_time() - began
    save(case.state, quick, metadata=case.metadata, fast=True)
    back = load(terse)
    assert all(np.array_equal(to_words(back[k]), to_words(v)) for k, v in case.state.items())
    torch.set_num_threads(1)
    decode = seconds(lambda: load(terse))
    decode_quick = seconds(lambda: load(quick))
    one = _wall(lambda: load(terse))
    torch.set_num_threads(2)
    two = _wall(lambda: load(terse))
    torch.set_num_threads(1)
    size = terse.stat().st_size
    row: dict[str, object] = {
        "tensors": case.name,
        "dense": dense,
        "safetensors": plain.stat().st_size,
        "torch.save": (folder / "x.pt").stat().st_size,
    }
    speed: dict[str, object] = {"tensors": case.name}
    for name, command in (("zstd -3", ["zstd", "-q", "-3"]), ("zstd -19", ["zstd", "-q", "-19"])):
        if shutil.which("zstd"):
            row[name], slow, fast = peer(command, plain)
            speed[f"{name}: encode, decode MB/s"] = (
                f"{dense / slow / 1e6:.1f}, {dense / max(fast, 1e-3) / 1e6:.0f}"
            )
    row["xz -9"] = len(lzma.compress(plain.read_bytes(), preset=9))
    sparse = sum(int((t == 0).sum()) for t in case.state.values()) > 0.5 * sum(
        t.numel() for t in case.state.values()
    )
    row["zlib on CSR"] = csr_zlib_bytes(case.state) if sparse else ""
    row["Huffman (version 1)"] = huffman = huffman_bytes(case)
    row["order 0"] = round(order_0_bytes(case.state))
    row["tersor, fast"] = quick.stat().st_size
    row["tersor"] = size
    row["of Huffman"] = f"{size / huffman:.3f}"
    row["of safetensors"] = f"{size / plain.stat().st_size:.3f}"
    row["header"] = report.summary["header bytes"]
    row["bar"] = case.bar
    speed |= {
        "tersor: encode MB/s": f"{dense / encode / 1e6:.1f}",
        "decode MB/s": f"{dense / decode / 1e6:.0f}",
        "decode MB/s, fast": f"{dense / decode_quick / 1e6:.0f}",
        "two threads / one": f"{one / two:.2f}",
    }
    return row, speed


def export(case: Case, folder: Path) -> None:
    """Write the tensors, if they are pruned and shared, where `codec_nncodec.py` reads them."""
    if "ResNet" in case.name or "pruned" in case.name:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous() for name, tensor in case.state.items()}
        safetensors.torch.save_file(state, folder / f"{case.name}.safetensors")


def _wall(work: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def table(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(c for row in rows for c in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (row.get(c, "") for c in columns)
        lines.append(
            "| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--lenets", type=Path)
    parser.add_argument("--export", type=Path, help="only write the shared weights, for a peer")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = []
        for case in cases(options.data_dir, options.lenets, folder):
            if options.export:
                export(case, options.export)
            elif options.only in case.name:
                results.append(measure(case, folder))
                print(*results[-1], sep="\n", flush=True)
    if options.export:
        return
    text = f"torch {torch.__version__}. Sizes in bytes.\n\n{table([r for r, _ in results])}\n\n"
    text += "Speeds in megabytes of tensors in memory a second, of one thread.\n\n"
    text += table([s for _, s in results]) + "\n"
    if PEERS.exists():
        text += "\nnncodec, measured in an environment of its own:\n\n"
        text += table(json.loads(PEERS.read_text("utf-8"))) + "\n"
    else:
        text += f"\nnncodec was not measured: there is no {PEERS.name}.\n"
    print(text)
    if options.write:
        given = " --data-dir DIR --lenets FOLDER" if options.lenets else ""
        command = f"python benchmarks/codec.py{given} --write benchmarks/codec.md"
        options.write.write_text(f"# Codecs\n\n`{command}`\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

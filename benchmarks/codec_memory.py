"""The memory that packing and loading a large checkpoint takes.

    python benchmarks/codec_memory.py [--megabytes 1000] [--write benchmarks/codec_memory.md]

A safetensors file of random weights is packed, then loaded, each by a process of its own, whose
peak of resident memory is compared with that of a process that only imports the package and with
the checkpoint's size. Pages of the file that the system has mapped count as memory, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch

IDLE = "import tersor.store"
PACK = "from tersor.store import pack; pack({0!r}, {1!r}, verify=False)"
VERIFIED = "from tersor.store import pack; pack({0!r}, {1!r})"
LOAD = "from tersor.store import load; load({1!r})"
ONE = "from tersor.store import open_\nwith open_({1!r}) as file: file['layers.0.weight']"


def checkpoint(path: Path, megabytes: int) -> None:
    """Matrices of 4,096 columns and several heights, drawn as Glorot has it; one is large."""
    draws = torch.Generator().manual_seed(0)
    state, left, number = {}, megabytes * 1_000_000 // 4, 0
    for rows in (16384, *([1024, 4096, 4096, 2048] * 1000)):
        if left <= 0:
            break
        rows = max(min(rows, left // 4096), 1)
        state[f"layers.{number}.weight"] = torch.randn(rows, 4096, generator=draws).mul_(0.02)
        left -= rows * 4096
        number += 1
    safetensors.torch.save_file(state, path)


def run(code: str) -> tuple[int, float]:
    """Peak of resident memory in bytes, and seconds."""
    # Not ru_maxrss, which a child takes over from the process that started it.
    tail = "\nprint(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    began = time.perf_counter()
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-2]) * 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines = ["| what | peak MB | above an idle process and the checkpoint, MB | seconds |"]
    lines.append("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.safetensors"), Path(folder, "x.terse")
        checkpoint(source, options.megabytes)
        idle, _ = run(IDLE)
        sizes = [source.stat().st_size]
        for name, code in (
            ("pack", PACK),
            ("pack, and compare what was written", VERIFIED),
            ("load", LOAD),
            ("one tensor of 268 MB", ONE),
        ):
            peak, seconds = run(code.format(str(source), str(target)))
            above = (peak - idle - sizes[0]) / 1e6
            lines.append(f"| {name} | {peak / 1e6:.0f} | {above:.0f} | {seconds:.0f} |")
        sizes.append(target.stat().st_size)
    text = f"Checkpoint: {sizes[0]:,} bytes; packed: {sizes[1]:,}. "
    text += f"An idle process: {idle / 1e6:.0f} MB."
    text += "\n\n" + "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = f"python benchmarks/codec_memory.py --megabytes {options.megabytes}"
        command = f"`{command} --write benchmarks/codec_memory.md`"
        head = f"# Memory of packing and loading\n\n{command}\n\n"
        options.write.write_text(head + text, "utf-8")


if __name__ == "__main__":
    main()

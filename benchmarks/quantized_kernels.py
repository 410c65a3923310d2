"""How fast deployed quantized linear layers are beside torch and torchao on the same CPU.

    python benchmarks/quantized_kernels.py [--write benchmarks/quantized_kernels.md]

All ways of a row take turns, call after call, so that noise of the machine hits all alike; the
table has medians. Weights are random integers times scales, or 16 random values a row, in float32;
tersor is told nothing but these values, and its result is compared with float64. torch's layers
are dense in float32 and bfloat16; torchao's have the weight alone quantized, in float32 (int8 a
channel, int4 in groups of 128), where it is installed and runs. Each number of threads has a
process of its own. `packed` are torch's own kernels for such weights with bfloat16 inputs, which
torchao and others call: `_weight_int8pack_mm` and `_weight_int4pack_mm_for_cpu`.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tersor.core.machine import processor
from tersor.run.grids import Grid
from tersor.run.layers import DeployedLinear
from tersor.run.packing import entries_of, pack_integers, pack_row_codes

Calls = dict[str, Callable[[], object]]

SHAPES = ((4096, 4096), (768, 3072))
BATCHES = (1, 16, 64)
PEERS = ("dense", "bf16", "packed", "torchao")
WAYS = ("int8", "int4 group 128", "4-bit row codes")


def weights(way: str, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if way == "4-bit row codes":
        books = torch.randn(rows, 16, generator=generator) / columns**0.5
        return books.gather(1, torch.randint(16, (rows, columns), generator=generator))
    bits, group = (8, columns) if way == "int8" else (4, 128)
    half = 1 << (bits - 1)
    integers = torch.randint(-half, half, (rows, columns), generator=generator)
    scales = (torch.rand(rows, columns // group, generator=generator) + 0.5) / half / columns**0.5
    return integers * scales.repeat_interleave(group, 1)


def medians(calls: Calls, seconds: float) -> dict[str, float]:
    """Milliseconds of each call, in turns, at least 11 samples of at least 3 ms each."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(3e-3 / (time.perf_counter() - start)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < 11:
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: 1000 * statistics.median(taken) for name, taken in samples.items()}


def packed_call(grid: Grid | None, way: str, x: Tensor) -> Calls:
    """torch's own kernel for these integers, with bfloat16 inputs and scales."""
    if grid is None or way == "4-bit row codes":
        return {}
    integers, scales = torch.from_numpy(grid.integers), torch.from_numpy(grid.scales).bfloat16()
    if way == "int8":
        stored = integers.to(torch.int8)
        return {"packed": lambda: torch._weight_int8pack_mm(x, stored, scales[:, 0])}
    codes = (integers + 8).to(torch.int32)
    words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    table = torch.stack([scales.t(), torch.zeros_like(scales.t())], -1)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return {"packed": lambda: multiply(x, words, 128, table)}


def torchao_layer(weight: Tensor, way: str) -> nn.Module | None:
    """torchao's layer with this weight quantized, or None where it is not installed or fails."""
    if importlib.util.find_spec("torchao") is None or way == "4-bit row codes":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao import quantization

        if way == "int8":
            config = quantization.Int8WeightOnlyConfig()
        else:
            config = quantization.IntxWeightOnlyConfig(
                weight_dtype=torch.int4, granularity=quantization.PerGroup(128)
            )
        model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        model[0].weight.data = weight.clone()
        try:
            quantization.quantize_(model, config)
            model(torch.zeros(1, weight.shape[1]))
        except (RuntimeError, ImportError, NotImplementedError) as error:
            print(f"torchao, {way}: {error}", file=sys.stderr)
            return None
    return model


def rows_of(seconds: float) -> Iterator[str]:
    times = [f"{name} ms" for name in ("tersor", *PEERS)]
    ratios = [f"{name} / tersor" for name in PEERS]
    heads = (*times, *ratios, "error", "dense error", "bytes", "of fp32")
    yield f"| shape | weights | batch | {' | '.join(heads)} |"
    yield f"| --- | --- | ---: | {' | '.join(['---:'] * len(heads))} |"
    for rows, width in SHAPES:
        for way in WAYS:
            weight = weights(way, rows, width)
            entries = entries_of(weight)
            pack = pack_row_codes if way == "4-bit row codes" else pack_integers
            if pack is pack_integers:
                assert getattr(entries.grid, "name", "") == way
            layer = DeployedLinear("layer", way, "codes", pack(entries), rows, width)
            assert torch.equal(layer.weight, weight)
            half, peer = weight.bfloat16(), torchao_layer(weight, way)
            for batch in BATCHES:
                x = torch.randn(batch, width, generator=torch.Generator().manual_seed(batch))
                short = x.bfloat16()
                calls: Calls = {
                    "tersor": lambda layer=layer, x=x: layer(x),
                    "dense": lambda x=x, w=weight: nn.functional.linear(x, w),
                    "bf16": lambda x=short, w=half: nn.functional.linear(x, w),
                }
                calls |= packed_call(entries.grid, way, short)
                if peer is not None:
                    calls["torchao"] = lambda x=x, m=peer: m(x)
                taken = medians(calls, seconds)
                truth = x.double() @ weight.double().t()
                errors = [gap(calls[name](), truth) for name in ("tersor", "dense")]
                for name in set(calls) - {"tersor", "dense"}:
                    assert gap(calls[name](), truth) < 0.2, name  # it multiplies the same weights
                cells = [
                    f"{rows}x{width} | {way} | {batch}",
                    *(f"{taken[n]:.3f}" if n in taken else "-" for n in ("tersor", *PEERS)),
                    *(f"{taken[n] / taken['tersor']:.2f}" if n in taken else "-" for n in PEERS),
                    *(f"{e:.1e}" for e in errors),
                    f"{layer.weight_bytes:,}",
                    f"{100 * layer.weight_bytes / (4 * rows * width):.1f} %",
                ]
                yield f"| {' | '.join(cells)} |"


def gap(got: object, truth: Tensor) -> float:
    """Largest difference from float64's output, as a share of its largest value."""
    assert isinstance(got, Tensor)
    return ((got.double() - truth).abs().max() / truth.abs().max()).item()


def versions() -> str:
    found = [f"torch {torch.__version__}"]
    if importlib.util.find_spec("torchao") is not None:
        import torchao

        found.append(f"torchao {torchao.__version__}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--threads", type=int, help="only so many, here; prints the rows alone")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        with torch.no_grad():
            for line in rows_of(options.seconds):
                print(line, flush=True)
        return
    lines = [
        "# Kernels of quantized layers",
        "",
        "`python benchmarks/quantized_kernels.py --write benchmarks/quantized_kernels.md`",
        "",
        f"{processor()}; {versions()}. Errors are the largest difference from float64's output as "
        "a share of its largest value; bytes are of the weights in memory.",
    ]
    for threads in (1, 2):
        command = [sys.executable, __file__, "--threads", str(threads)]
        command += ["--seconds", str(options.seconds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        lines += ["", f"## {threads} thread{'s' * (threads > 1)}", "", done.stdout.rstrip()]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write is not None:
        options.write.write_text(text)


if __name__ == "__main__":
    main()

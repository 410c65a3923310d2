"""What it costs to quantize a weight of 25 million numbers after training.

    python benchmarks/quantizers.py [--write benchmarks/quantizers.md]

The unit is what torch needs for the same grid: the largest absolute value of each channel, and
`torch.fake_quantize_per_channel_affine`. Ways take turns; the table has medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tersor.quantize import FORMATS, Affine, DynamicFixedPoint, FixedPoint, OutlierAware, Quantizer
from tersor.quantize.quantizer import label

SIDE = 5000

QUANTIZERS: list[Quantizer] = [
    Affine(8),
    Affine(8, symmetric=False),
    Affine(8, "tensor"),
    Affine(4, "group", 128),
    Affine(4, range="percentile"),
    Affine(4, range="aciq"),
    Affine(8, range="mse"),
    Affine(4, "tensor", range="mse"),
    Affine(8, "tensor", range="kl"),
    FORMATS["fp8_e4m3"],
    FORMATS["bf16"],
    FixedPoint(),
    DynamicFixedPoint(),
    OutlierAware(),
]


def by_torch(weight: Tensor) -> Tensor:
    """8 bits for each channel, symmetric."""
    scale = weight.abs().amax(dim=1) / 127
    zero_point = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -127, 127)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[Tensor], Tensor]] = {"torch: amax, fake_quantize": by_torch}
    ways |= {f"`{label(quantizer)}`": quantizer for quantizer in QUANTIZERS}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, function in ways.items():
            began = time.perf_counter()
            function(weight)
            found[way].append(time.perf_counter() - began)
    [unit, *_] = found.values()
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), {weight.numel():,} float32 "
        f"weights in {SIDE:,} channels; medians of {options.rounds} rounds.",
        "",
        "| way | seconds | ratio to torch's | SQNR dB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for way, seconds in found.items():
        ratio = statistics.median(s / u for s, u in zip(seconds, unit, strict=True))
        noise = (ways[way](weight) - weight).square().sum()
        sqnr = 10 * float((weight.square().sum() / noise).log10())
        lines.append(f"| {way} | {statistics.median(seconds):.2f} | {ratio:.2f} | {sqnr:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        command = "python benchmarks/quantizers.py --write benchmarks/quantizers.md"
        options.write.write_text(f"# Quantizing 25 million weights\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()

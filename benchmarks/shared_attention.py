"""Encoders whose layers share attention maps beside the same encoder of torch: speed.

    python benchmarks/shared_attention.py [--write benchmarks/shared_attention.md]

Six layers, all with one map, or with two or three; they run in turns in one process, and a number
is the median time of torch's by the median time of theirs, so above 1 sharing wins.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from tersor.share import share_attention_

LAYERS = 6
GROUPS = {"1 map": [0] * 6, "2 maps": [0, 0, 0, 1, 1, 1], "3 maps": [0, 0, 1, 1, 2, 2]}
SIZES = ((256, 4, 128, 4), (256, 4, 512, 1), (768, 12, 128, 2))
"""Width, heads, length of the sequence, samples."""


def encoder(width: int, heads: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        for _ in range(LAYERS)
    )
    return nn.Sequential(*layers)


def seconds(model: nn.Module, x: torch.Tensor, training: bool) -> float:
    """One pass, or one with its gradients."""
    model.train(training)
    began = time.perf_counter()
    if training:
        model(x).square().mean().backward()
    else:
        with torch.inference_mode():
            model(x)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"torch {torch.__version__}, {options.threads} thread(s), float32, {LAYERS} layers. Times "
        "torch's speed.",
        "",
        "| width | heads | length | samples | pass | " + " | ".join(GROUPS) + " |",
        "| ---: | ---: | ---: | ---: | --- |" + " ---: |" * len(GROUPS),
    ]
    for width, heads, length, samples in SIZES:
        plain = encoder(width, heads)
        models = [plain, *(copy.deepcopy(plain) for _ in GROUPS)]
        for model, groups in zip(models[1:], GROUPS.values(), strict=True):
            share_attention_(model, groups)
        x = torch.randn(samples, length, width)
        for name, training in (("forward", False), ("with gradients", True)):
            times: list[list[float]] = [[] for _ in models]
            for turn in range(options.rounds + 2):  # two to warm up
                for model, taken in zip(models, times, strict=True):
                    spent = seconds(model, x, training)
                    if turn >= 2:
                        taken.append(spent)
            first, *others = (statistics.median(taken) for taken in times)
            cells = " | ".join(f"{first / other:.2f}" for other in others)
            lines.append(f"| {width} | {heads} | {length} | {samples} | {name} | {cells} |")
            print(lines[-1], flush=True)
    if options.write:
        command = "python benchmarks/shared_attention.py --write benchmarks/shared_attention.md"
        text = "\n".join(lines) + "\n"
        options.write.write_text(f"# Shared attention maps\n\n`{command}`\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

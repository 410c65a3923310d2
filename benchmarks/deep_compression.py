"""Deep Compression's headline on MNIST: bytes on disk, error before and after, layer by layer.

    python benchmarks/deep_compression.py --data-dir DIR [--write benchmarks/deep_compression.md]

Runs the recipes that come with tersor for LeNet-300-100 and LeNet-5, each with three seeds, and
prints the result beside Han, Mao and Dally 2016 (arXiv 1510.00149), tables 1 to 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from tersor import Report, compress, load_task
from tersor.compress import read_recipe
from tersor.core.seeding import seed_everything
from tersor.store import inspect
from tersor.tasks import build_model


@dataclass(frozen=True)
class Published:
    """What the paper has, and the bar of this project."""

    reference: float
    error: float
    kilobytes: int
    # layer: kept %, value bits and index bits before and after Huffman, rate % before and after
    layers: dict[str, tuple[float, float, float, float, float, float, float]]
    reference_bar: float
    bytes_bar: int


PUBLISHED = {
    "lenet-300-100": Published(
        1.64,
        1.58,
        27,
        {
            "fc1.weight": (8, 6, 4.4, 5, 3.7, 3.1, 2.32),
            "fc2.weight": (9, 6, 4.4, 5, 4.3, 3.8, 3.04),
            "fc3.weight": (26, 6, 4.3, 5, 3.2, 15.7, 12.70),
            "all matrices": (8, 6, 5.1, 5, 3.7, 3.1, 2.49),
        },
        reference_bar=1.75,
        bytes_bar=26_600,
    ),
    "lenet-5": Published(
        0.80,
        0.74,
        44,
        {
            "conv1.weight": (66, 8, 7.2, 5, 1.5, 78.5, 67.45),
            "conv2.weight": (12, 8, 7.2, 5, 3.9, 6.0, 5.28),
            "fc1.weight": (8, 5, 4.5, 5, 4.5, 2.7, 2.45),
            "fc2.weight": (19, 5, 5.2, 5, 3.7, 6.9, 6.13),
            "all matrices": (8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
        },
        reference_bar=0.90,
        bytes_bar=43_000,
    ),
}


def run(task_name: str, name: str, seed: int, data_dir: str | None, folder: Path) -> Report:
    """The main job with the recipe that comes with tersor, or its report if it is there."""
    out = folder / f"{task_name}-{name}-{seed}.terse"
    done = out.with_name(out.name + ".run") / "report.json"
    if done.exists():
        return Report.from_dict(json.loads(done.read_text("utf-8")))
    recipe = read_recipe(f"{task_name}-{name}")
    task = load_task(task_name, data_dir=data_dir, batch_size=recipe.batch_size)
    seed_everything(seed, "init")
    return compress(
        build_model(name, input_shape=tuple(task.example_input.shape[1:])),
        task,
        recipe,
        out=out,
        seed=seed,
        metadata={"task": task_name, "model": name},
    ).report


def headline(reports: list[Report], paper: Published | None) -> list[str]:
    """Every seed and the mean, against the paper and the bars."""
    lines = [
        "| run | reference error % | error % | drop, points | file bytes | ratio | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    if paper is not None:
        lines += [
            f"| published | {paper.reference:.2f} | {paper.error:.2f} | "
            f"{paper.error - paper.reference:+.2f} | {paper.kilobytes} KB | | |",
            f"| bar | <= {paper.reference_bar:.2f} | | <= +0.10 | <= {paper.bytes_bar:,} | | |",
        ]
    rows = []
    for report in reports:
        keys = ("reference error %", "error %", "file bytes", "dense bytes", "seconds")
        before, after, size, dense, seconds = (float(report.summary[key] or 0) for key in keys)
        rows.append((before, after, after - before, size, dense / size, seconds))
    rows.append(tuple(statistics.mean(column) for column in zip(*rows, strict=True)))
    names = [f"seed {report.summary['seed']}" for report in reports] + ["mean"]
    for label, (reference, error, drop, size, ratio, seconds) in zip(names, rows, strict=True):
        lines.append(
            f"| {label} | {reference:.2f} | {error:.2f} | {drop:+.2f} | {size:,.0f} | "
            f"{ratio:.1f} | {seconds:.0f} |"
        )
    return lines


def layers(name: str, report: Report) -> list[str]:
    """The paper's columns, published and measured side by side."""
    lines = [
        "Published / measured. H is after Huffman; P+Q, P+Q+H and file are percent of 32 bits a "
        "weight, and only the file counts code tables.",
        "",
        "| layer | kept % | value bits | H | index bits | H | P+Q % | P+Q+H % | file % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = (
        "kept %",
        "value bits",
        "value bits H",
        "index bits",
        "index bits H",
        "P+Q %",
        "P+Q+H %",
    )
    table = next(s for s in report.sections if s.title == "Paper and file")
    measured = {str(row["name"]): row for row in table.rows}
    for layer, published in PUBLISHED[name].layers.items():
        row = measured.get(layer)
        if row is None:
            continue
        pairs = (
            f"{p:g} / {float(row[c] or 0):.3g}" for p, c in zip(published, columns, strict=True)
        )
        lines.append(f"| {layer} | {' | '.join(pairs)} | {float(row['file %'] or 0):.3g} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--keep", type=Path, help="a folder for the files; runs that are there are not made again"
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines = [
        "# Deep Compression on MNIST",
        "",
        "`OMP_NUM_THREADS=1 python benchmarks/deep_compression.py --data-dir DIR --write "
        "benchmarks/deep_compression.md`",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. 55,000 images to train, "
        "5,000 to choose by within a run, the 10,000 test images read once at its end; one of them "
        "is 0.01 points. The recipes' own settings were fixed after trials whose errors on both "
        "were seen: errors before and after may be compared, but are no unbiased estimates.",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            results = [run("mnist", name, s, options.data_dir, folder) for s in options.seeds]
            first = results[0]
            header = inspect(str(first.summary["file"])).header_bytes
            lines += ["", f"## {name}", "", *headline(results, PUBLISHED[name]), ""]
            lines += [f"Layers of seed {first.summary['seed']} (header: {header} bytes)", ""]
            lines += layers(name, first)
        results = [run("digits", "lenet-300-100", s, None, folder) for s in options.seeds]
        lines += ["", "## The main job: lenet-300-100 on digits, 300 test images", ""]
        lines += headline(results, None)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""How fast deployed layers and models are beside torch, ONNX Runtime and torchao on the same CPU.

    python benchmarks/kernels.py [--threads 2] [--write benchmarks/kernels.md]

All ways of a row take turns, call after call, so that noise of the machine hits all alike; the
table has medians. Weights are random of the stated density with 15 values, which is what pruning
and 4-bit sharing leave; the time does not depend on which. ONNX Runtime and torchao take part
where they are installed. `limit` is what this machine cannot beat: for one sample the bytes of
weights and activations over its copy bandwidth (weights that stay in a cache may beat it), for
batches the multiply-adds of kept weights over the peak of the inner loop in the first cache.
Each part runs in a process of its own.
"""

# ruff: noqa: B023 (each call is made and timed within its own turn of the loop)

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.machine import processor
from tersor.run import Plan, deploy, plan_of
from tersor.run.layers import DeployedLinear
from tersor.run.packing import Entries, entries_of, pack_codes, pack_integers, pack_sparse
from tersor.tasks import build_model

Calls = dict[str, Callable[[], object]]

LINEAR = (  # name, rows, columns, kept, bars against dense and CSR at batch 1, 16, 64
    ("AlexNet fc6", 4096, 9216, 0.09, (8, 6, 6), (1.3, 1.3, 2)),
    ("AlexNet fc7", 4096, 4096, 0.09, (8, 6, 6), (1.3, 1.3, 2)),
    ("VGG fc6", 4096, 25088, 0.04, (8, 6, 6), (1.3, 1.3, 2)),
    ("transformer", 768, 768, 0.10, (2, 3, 5), None),
    ("transformer", 3072, 768, 0.10, (2, 3, 5), None),
)
CONVOLUTIONS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side
CONVOLUTION_BARS = {0.10: 2.5, 0.05: 4.5}


def weights(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.linspace(-1, 1, 16)[torch.arange(16) != 7]
    matrix = values[torch.randint(15, (rows, columns), generator=generator)]
    matrix[torch.rand(rows, columns, generator=generator) >= density] = 0
    return matrix / (density * columns) ** 0.5


def sparsify(model: nn.Module, density: float) -> nn.Module:
    for seed, parameter in enumerate(model.parameters()):
        if parameter.dim() > 1:
            rows = parameter.shape[0]
            columns = parameter.numel() // rows
            parameter.data = weights(rows, columns, density, seed).reshape(parameter.shape)
    return model.eval()


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


# ---- peers


def int32_csr(matrix: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse rows are in beta
        rows = matrix.to_sparse_csr()
        parts = (rows.crow_indices().int(), rows.col_indices().int(), rows.values())
        return torch.sparse_csr_tensor(*parts, matrix.shape)


def onnx_session(node: str, weight: Tensor, attributes: dict[str, Any], int8: bool, threads: int):
    """An ONNX Runtime session of one node, or None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return None
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    if node == "MatMul":
        weight = weight.t().contiguous()
    rank = 2 if node == "MatMul" else 4
    graph = helper.make_graph(
        [helper.make_node(node, ["x", "w"], ["y"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(model, str(path))
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = path.with_name("int8.onnx")
            quantize_dynamic(str(path), str(small), weight_type=QuantType.QInt8)
            path = small
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def session_call(session: Any, x: Tensor) -> Callable[[], object]:
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def torchao_linear(weight: Tensor) -> nn.Module | None:
    if importlib.util.find_spec("torchao") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        model[0].weight.data = weight.clone()
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


# ---- rows


def quickest(call: Callable[[], object]) -> float:
    """Seconds of the quickest of many calls: a limit is what was reached once."""
    taken = []
    end = time.perf_counter() + 2.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def machine_limits() -> tuple[float, float]:
    """Bytes a second that copying moves, read and write together; peak multiply-adds a second."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * 4
    copy = moved / quickest(lambda: target.copy_(source))
    # 64 columns times 64 samples are 16 KB: x stays in the first cache.
    dense = weights(8192, 64, 1.1)
    layer = DeployedLinear(
        "peak", "", "sparse", pack_sparse(entries_of(dense), tile=64), *dense.shape
    )
    x = torch.randn(64, 64)
    peak = dense.numel() * 64 / quickest(lambda: layer(x))
    return copy, peak


def fastest(calls: Calls, seconds: float = 0.5) -> Callable[[], object]:
    times = medians(calls, seconds)
    return calls[min(times, key=lambda name: times[name])]


def limit_ms(batch: int, moved: float, macs: float, limits: tuple[float, float]) -> float:
    return 1000 * (moved / limits[0] if batch == 1 else macs / limits[1])


def ours_linear(matrix: Tensor, x: Tensor) -> tuple[Callable[[], object], int]:
    """The fastest tile, as `deploy` takes it, and its bytes."""
    entries = entries_of(matrix)
    made = {}
    for tile in (4096, 1024, 256):
        packed = pack_sparse(entries, tile=tile)
        made[str(tile)] = DeployedLinear("layer", "", "sparse", packed, *matrix.shape)
    calls = {name: (lambda m=m: m(x)) for name, m in made.items()}
    best = fastest(calls)
    layer = next(made[name] for name in calls if calls[name] is best)
    return best, layer.weight_bytes


def linear_rows(threads: int, limits: tuple[float, float], seconds: float) -> Iterator[str]:
    yield (
        "| shape (kept) | batch | tersor ms | limit ms | dense / tersor (bar) | CSR / tersor (bar) "
        "| dense fp32 ms | bf16 | CSR int32 | ORT fp32 | ORT int8 | torchao int8 |"
    )
    yield "| --- | ---: | " + " | ".join(["---:"] * 10) + " |"
    for name, rows, columns, density, bars, csr_bars in LINEAR:
        matrix = weights(rows, columns, density)
        kept = int((matrix != 0).sum())
        half = matrix.bfloat16()
        csr = int32_csr(matrix)
        sessions = {
            "ORT fp32": onnx_session("MatMul", matrix, {}, False, threads),
            "ORT int8": onnx_session("MatMul", matrix, {}, True, threads),
        }
        ao = torchao_linear(matrix)
        for place, batch in enumerate((1, 16, 64)):
            x = torch.randn(batch, columns)
            x_half, x_turned = x.bfloat16(), x.t().contiguous()
            ours, weight_bytes = ours_linear(matrix, x)
            calls: Calls = {
                "tersor": ours,
                "dense": lambda: nn.functional.linear(x, matrix),
                "bf16": lambda: nn.functional.linear(x_half, half),
                "CSR": lambda: csr @ x_turned,
            }
            for peer, session in sessions.items():
                if session is not None:
                    calls[peer] = session_call(session, x)
            if ao is not None:
                calls["torchao int8"] = lambda: ao(x)
            times = medians(calls, seconds)
            moved = weight_bytes + 4 * batch * (columns + rows)
            limit = limit_ms(batch, moved, kept * batch, limits)
            bar = f"{times['dense'] / times['tersor']:.1f} ({bars[place]})"
            csr_bar = f"{times['CSR'] / times['tersor']:.2f}"
            csr_bar += f" ({csr_bars[place]})" if csr_bars else ""
            peers = ("dense", "bf16", "CSR", "ORT fp32", "ORT int8", "torchao int8")
            others = [f"{times[p]:.3f}" if p in times else "-" for p in peers]
            yield (
                f"| {name} {rows}x{columns} ({density:.0%}) | {batch} | {times['tersor']:.3f} | "
                f"{limit:.3f} | {bar} | {csr_bar} | {' | '.join(others)} |"
            )


def codes_rows(limits: tuple[float, float], seconds: float) -> Iterator[str]:
    yield "| weights | tersor ms | limit ms | dense fp32 / tersor (bar) | dense fp32 ms | bf16 ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    x = torch.randn(1, 4096)
    generator = torch.Generator().manual_seed(0)
    ways: dict[str, tuple[Tensor, Callable[[Entries], Tensor | None]]] = {}
    for bits in (1, 2, 4, 8):
        values = torch.linspace(-1, 1, 1 << bits)
        matrix = values[torch.randint(1 << bits, (4096, 4096), generator=generator)]
        ways[f"codes of {bits} bits"] = (matrix, pack_codes)
    integers = torch.randint(-127, 128, (4096, 4096), generator=generator)
    scales = torch.rand(4096, 1, generator=generator)
    ways["8-bit integers, a scale a row"] = (integers * scales, pack_integers)
    for name, (matrix, pack) in ways.items():
        half, x_half = matrix.bfloat16(), x.bfloat16()
        packed = pack(entries_of(matrix))
        assert packed is not None
        layer = DeployedLinear("layer", "codes", "codes", packed, 4096, 4096)
        times = medians(
            {
                "tersor": lambda: layer(x),
                "dense": lambda: nn.functional.linear(x, matrix),
                "bf16": lambda: nn.functional.linear(x_half, half),
            },
            seconds,
        )
        limit = limit_ms(1, layer.weight_bytes, 0, limits)
        bar = f"{times['dense'] / times['tersor']:.2f}" + (" (3)" if "4 bits" in name else "")
        yield (
            f"| {name} | {times['tersor']:.3f} | {limit:.3f} | {bar} | {times['dense']:.3f} | "
            f"{times['bf16']:.3f} |"
        )


def convolution_rows(threads: int, limits: tuple[float, float], seconds: float) -> Iterator[str]:
    yield (
        "| 3x3 convolution | kept | batch | tersor ms | limit ms | better layout / tersor (bar) "
        "| NCHW ms | channels last | bf16 | ORT fp32 |"
    )
    yield "| --- | ---: | ---: | " + " | ".join(["---:"] * 7) + " |"
    for channels, side in CONVOLUTIONS:
        for density, bar in CONVOLUTION_BARS.items():
            matrix = weights(channels, channels * 9, density)
            weight = matrix.reshape(channels, channels, 3, 3)
            last = weight.to(memory_format=torch.channels_last)
            half = last.bfloat16()
            kept = int((matrix != 0).sum())
            pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
            session = onnx_session("Conv", weight, pads, False, threads)
            layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            layer.weight.data = weight
            for batch in (1, 16):
                x = torch.randn(batch, channels, side, side)
                x_last = x.to(memory_format=torch.channels_last)
                x_half = x_last.bfloat16()
                model = deploy(nn.Sequential(layer), x)
                conv = nn.functional.conv2d
                calls: Calls = {
                    "tersor": lambda: model(x),
                    "NCHW": lambda: conv(x, weight, None, 1, 1),
                    "last": lambda: conv(x_last, last, None, 1, 1),
                    "bf16": lambda: conv(x_half, half, None, 1, 1),
                }
                if session is not None:
                    calls["ORT"] = session_call(session, x)
                times = medians(calls, seconds)
                weight_bytes = plan_of(model).layers[0].weight_bytes
                moved = weight_bytes + 8 * x.numel()
                limit = max(
                    limit_ms(1, moved, 0, limits),
                    limit_ms(2, 0, kept * batch * side * side, limits),
                )
                ratio = min(times["NCHW"], times["last"]) / times["tersor"]
                ort = f"{times['ORT']:.3f}" if "ORT" in times else "-"
                yield (
                    f"| {channels} channels, {side}x{side} | {density:.0%} | {batch} | "
                    f"{times['tersor']:.3f} | {limit:.3f} | {ratio:.2f} ({bar}) | "
                    f"{times['NCHW']:.3f} | {times['last']:.3f} | {times['bf16']:.3f} | {ort} |"
                )


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def encoder(width: int, heads: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


class LanguageModel(nn.Module):
    """The medium LSTM of Zaremba et al. without its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(650, 650, 2, batch_first=True)
        self.head = nn.Linear(650, 10000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


NOTES = "\n## What is missed"
ALL = (1, 16, 64)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "LeNet-300-100": (lambda: build_model("lenet-300-100"), (1, 28, 28), ALL),
    "LeNet-5": (lambda: build_model("lenet-5"), (1, 28, 28), ALL),
    "VGG-like, 32x32": (vgg, (3, 32, 32), ALL),
    "ResNet-20": (lambda: build_model("resnet-20", input_shape=(3, 32, 32)), (3, 32, 32), ALL),
    "transformer encoder, 6 x 256, 64 tokens": (lambda: encoder(256, 4), (64, 256), ALL),
    "LSTM 2 x 650, 35 steps": (LanguageModel, (35, 650), ALL),
    "transformer encoder, 6 x 768, 64 tokens": (lambda: encoder(768, 12), (64, 768), (1, 16)),
}


def deployed_and_timed(
    model: nn.Module, shape: tuple[int, ...], batch: int, seconds: float
) -> tuple[dict[str, float], Plan]:
    x = torch.randn(batch, *shape)
    made = deploy(model, x)
    times = medians({"dense": lambda: model(x), "deployed": lambda: made(x)}, seconds)
    return times, plan_of(made)


def model_rows(seconds: float) -> Iterator[str]:
    yield (
        "| model | kept | batch | dense ms | deployed ms | ratio (bar) | weights, KB "
        "| dense weights, KB | difference |"
    )
    yield "| --- | ---: | ---: | " + " | ".join(["---:"] * 6) + " |"
    for name, (build, shape, batches) in MODELS.items():
        for density in (0.10, 0.05, 1.0):
            torch.manual_seed(0)
            model = build().eval()
            if density < 1:
                sparsify(model, density)
            for batch in batches:
                times, plan = deployed_and_timed(model, shape, batch, seconds)
                small = sum(layer.weight_bytes for layer in plan.layers) / 1000
                large = sum(layer.dense_bytes for layer in plan.layers) / 1000
                bar = 2 if density < 1 else 0.98
                yield (
                    f"| {name} | {density:.0%} | {batch} | {times['dense']:.3f} | "
                    f"{times['deployed']:.3f} | {times['dense'] / times['deployed']:.2f} ({bar}) | "
                    f"{small:,.0f} | {large:,.0f} | {plan.difference:.0e} |"
                )


def thread_rows(most: int, seconds: float) -> Iterator[str]:
    yield "| layer | batch | 1 thread, ms | " + f"{most} threads, ms | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    matrix = weights(4096, 9216, 0.09)
    packed = pack_sparse(entries_of(matrix), tile=1024)
    layer = DeployedLinear("layer", "", "sparse", packed, *matrix.shape)
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    conv.weight.data = weights(128, 128 * 9, 0.10).reshape(conv.weight.shape)
    images = torch.randn(16, 128, 28, 28)
    model = deploy(nn.Sequential(conv), images)
    rows: list[tuple[str, int, Callable[[], object]]] = []
    for batch in (1, 16, 64):
        x = torch.randn(batch, 9216)
        rows.append(("AlexNet fc6 (9%)", batch, lambda x=x: layer(x)))
    rows.append(("convolution, 128 channels (10%)", 16, lambda: model(images)))
    for name, batch, call in rows:

        def on(threads: int, call: Callable[[], object] = call) -> Callable[[], object]:
            def run() -> object:
                torch.set_num_threads(threads)
                return call()

            return run

        times = medians({"one": on(1), "all": on(most)}, seconds)
        torch.set_num_threads(most)
        ratio = times["one"] / times["all"]
        yield f"| {name} | {batch} | {times['one']:.3f} | {times['all']:.3f} | {ratio:.2f} |"


def versions() -> str:
    found = [f"torch {torch.__version__}"]
    for name in ("onnxruntime", "torchao"):
        if importlib.util.find_spec(name) is not None:
            found.append(f"{name} {importlib.import_module(name).__version__}")
    return ", ".join(found)


PARTS = {
    "linear": "Sparse linear layers",
    "codes": "Dense codebook, 4096x4096, batch 1",
    "convolution": "Sparse convolutions, shapes of ResNet on ImageNet",
    "model": "Whole models through `deploy`",
    "thread": "Threads",
}


def part_rows(part: str, threads: int, seconds: float) -> Iterator[str]:
    if part == "model":
        return model_rows(seconds)
    if part == "thread":
        return thread_rows(threads, seconds)
    limits = machine_limits()
    print(
        f"Copying moves {limits[0] / 1e9:.1f} GB/s (reading and writing); the inner loop's peak is "
        f"{limits[1] / 1e9:.1f} thousand million multiply-adds a second.\n"
    )
    if part == "linear":
        return linear_rows(threads, limits, seconds)
    if part == "codes":
        return codes_rows(limits, seconds)
    return convolution_rows(threads, limits, seconds)


def in_own_processes(threads: int, seconds: float) -> Iterator[str]:
    """Each part's lines: what another part did to the process must not change its times."""
    yield f"{processor()}, {threads} thread(s); {versions()}."
    for part, title in PARTS.items():
        yield from ("", f"## {title}", "")
        command = [sys.executable, "-W", "ignore", __file__, "--only", part]
        command += ["--threads", str(threads), "--seconds", str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            yield from (line.rstrip("\n") for line in child.stdout)
        if child.returncode:
            raise SystemExit(f"the part {part!r} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for the calls of a row")
    parser.add_argument("--only", choices=PARTS, help="one part, in this process")
    parser.add_argument("--write", type=Path, help="its notes, from 'What is missed' on, stay")
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        for row in part_rows(options.only, options.threads, options.seconds):
            print(row, flush=True)
        return
    lines = []
    for line in in_own_processes(options.threads, options.seconds):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        old = options.write.read_text() if options.write.is_file() else ""
        notes = old[old.find(NOTES) :] if NOTES in old else ""
        command = f"python benchmarks/kernels.py --threads {options.threads}"
        head = f"# Kernels\n\n`{command} --write benchmarks/kernels.md`\n\n"
        options.write.write_text(head + "\n".join(lines) + "\n" + notes)


if __name__ == "__main__":
    main()

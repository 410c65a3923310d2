"""What this machine and this environment offer, and what is in the way."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from importlib import metadata

import torch

from tersor.core.errors import TersorError
from tersor.core.report import Report, Value
from tersor.tasks import TASKS, load_task


def examine(data_dir: str | None = None) -> tuple[Report, bool]:
    """Look at the environment; the second value is whether all that is required works."""
    rows = [
        _python(),
        _native(),
        _torch(),
        _cpu(),
        _kernels(),
        _compiler(),
        _extra("accelerate", "training"),
        _extra("sklearn", "the task digits"),
        _torchvision(),
        *(_task(name, data_dir) for name in TASKS),
    ]
    healthy = all(row["state"] != "broken" for row in rows)
    advice = [str(row.pop("advice")) for row in rows if "advice" in row]
    return Report("tersor doctor", {"healthy": healthy}, rows, notes=advice), healthy


def _row(what: str, state: str, found: str, advice: str | None = None) -> dict[str, Value]:
    row: dict[str, Value] = {"what": what, "state": state, "found": found}
    return row | ({"advice": f"{what}: {advice}"} if advice else {})


def _python() -> dict[str, Value]:
    return _row("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _native() -> dict[str, Value]:
    try:
        module = importlib.import_module("tersor._native")
    except ImportError as error:
        return _row("C++ extension", "broken", str(error), "install tersor again: pip install .")
    return _row("C++ extension", "ok", os.path.basename(str(module.__file__)))  # noqa: PTH119


def _kernels() -> dict[str, Value]:
    """What deployed models run on."""
    try:
        module = importlib.import_module("tersor._native")
    except ImportError:
        return _row("kernels", "missing", "no C++ extension")
    if module.threads_kind() == "openmp":
        return _row("kernels", "ok", f"{module.isa()}, on torch's OpenMP threads")
    return _row(
        "kernels",
        "ok",
        f"{module.isa()}, on threads of their own",
        "torch's OpenMP runtime was not found: more than one thread may not pay",
    )


def _torch() -> dict[str, Value]:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    devices = f", {torch.cuda.device_count()} GPU" if torch.cuda.is_available() else ""
    return _row("torch", "ok", f"{torch.__version__}, {build}{devices}")


def _cpu() -> dict[str, Value]:
    features = torch.backends.cpu.get_cpu_capability()
    return _row(
        "CPU", "ok", f"{features}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )


def _compiler() -> dict[str, Value]:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        return _row("C++ compiler", "missing", "none", "needed only to build tersor from source")
    return _row("C++ compiler", "ok", found)


def _extra(module: str, purpose: str) -> dict[str, Value]:
    package = {"sklearn": "scikit-learn"}.get(module, module)
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation can raise anything; it is shown
        first = str(error).partition("\n")[0]
        return _row(package, "missing", first, f"{purpose} needs it: pip install 'tersor[train]'")
    return _row(package, "ok", metadata.version(package))


def _torchvision() -> dict[str, Value]:
    """A torchvision of another build does not load, and takes other libraries down with it."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return _row("torchvision", "ok", "not installed, not needed")
    except Exception as error:  # RuntimeError, OSError, AttributeError: all were seen
        first = str(error).partition("\n")[0]
        advice = (
            "it was built for another torch and does not load; transformers and torchmetrics fail "
            f"with it. tersor does not need it: {sys.executable} -m pip uninstall torchvision"
        )
        return _row("torchvision", "trap", first, advice)
    return _row("torchvision", "ok", metadata.version("torchvision"))


def _task(name: str, data_dir: str | None) -> dict[str, Value]:
    try:
        load_task(name, data_dir=data_dir)
    except TersorError as error:
        return _row(f"task {name}", "missing", "no data", str(error).partition(": ")[2])
    return _row(f"task {name}", "ok", "data found, checksums right")

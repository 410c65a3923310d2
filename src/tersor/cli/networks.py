"""A network for a command: built for its task, with fresh weights or those of a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.seeding import seed_everything
from tersor.store import load_into, metadata, read_tensors
from tersor.tasks import Task, build_model, load_task


def starting_network(task: Task, name: str, seed: int, weights: Path | None) -> nn.Module:
    """A model with freshly drawn weights, or with those of a trained one.

    Raises:
        ConfigError: the model does not fit the task, or the file does not fit the model.
        FormatError: the file is damaged.
    """
    seed_everything(seed, "init")
    network = _built(task, name)
    return network if weights is None else _filled(network, weights)


def network_of(
    file: Path,
    task_name: str | None,
    model_name: str | None,
    data_dir: str | None,
    batch_size: int | None = None,
) -> tuple[nn.Module, str, str, Task]:
    """The network of a file with its task; what is not said is what the file says.

    Raises:
        ConfigError: neither the file nor the caller says which task and model it is.
    """
    said = metadata(file) if file.suffix == ".terse" else {}
    names = {"task": task_name or said.get("task"), "model": model_name or said.get("model")}
    for option, name in names.items():
        if name is None:
            raise ConfigError(f"{file}: does not say for which {option} it is; give --{option}")
    task_name, model_name = str(names["task"]), str(names["model"])
    task = load_task(task_name, data_dir=data_dir, batch_size=batch_size)
    return _filled(_built(task, model_name), file), task_name, model_name, task


def built(name: str, input_shape: tuple[int, ...]) -> nn.Module:
    """A network with fresh weights: one of `MODELS`, or of one's own as "module:function".

    The module is looked for in the working folder, too; the function takes no arguments.

    Raises:
        ConfigError: there is no such module or function, or it gives no `nn.Module`.
    """
    if ":" not in name:
        return build_model(name, input_shape=input_shape)
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--model {name}: {error}; expected module:function") from error
    network = function()
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ConfigError(f"--model {name}: gives a {kind}, expected a torch.nn.Module")
    return network


def _built(task: Task, name: str) -> nn.Module:
    return build_model(name, input_shape=tuple(task.example_input.shape[1:]))


def _filled(network: nn.Module, file: Path) -> nn.Module:
    return load_into(network, read_tensors(file), source=file)

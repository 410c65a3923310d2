"""A network for a command: built for its task, with fresh weights or those of a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import Tensor, nn

from tersor.compress import load_network
from tersor.core.errors import ConfigError
from tersor.core.seeding import seed_everything
from tersor.share import materialize_, structure
from tersor.store import metadata
from tersor.tasks import VOCABULARIES, Task, build_model, load_task, network_for


def starting_network(task: Task, name: str, seed: int, weights: Path | None) -> nn.Module:
    """A model with freshly drawn weights, or with those of a trained one.

    Raises:
        ConfigError: the model does not fit the task, or the file does not fit the model.
        FormatError: the file is damaged.
    """
    seed_everything(seed, "init")
    network = network_for(task.name, name)
    return network if weights is None else load_network(network, weights)


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
    network = load_network(network_for(task_name, model_name), file)
    return network, task_name, model_name, task


def plain_network(file: Path, task: str | None, name: str, samples: Tensor) -> nn.Module:
    """The network of a file with plain layers alone: what is made of buckets is put together.

    Raises:
        ConfigError: as `built`, or the file is of another network.
    """
    network = load_network(built(name, task, tuple(samples.shape[1:])), file)
    if any(record["kind"] in ("hashed", "templates") for record in structure(network)):
        materialize_(network)
    return network.eval()


def built(name: str, task: str | None, input_shape: tuple[int, ...]) -> nn.Module:
    """A network with fresh weights: one of `MODELS`, or of one's own as "module:function".

    The module is looked for in the working folder, too; the function takes no arguments.

    Raises:
        ConfigError: there is no such module or function, or it gives no `nn.Module`.
    """
    if ":" not in name:
        classes = VOCABULARIES.get(str(task), 10)
        return build_model(name, input_shape=input_shape, classes=classes)
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

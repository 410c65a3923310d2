"""A command that does one step of a recipe: on the network of a file, or on a fresh one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tersor.cli.door import guarded
from tersor.cli.networks import network_of, starting_network
from tersor.cli.options import (
    BatchSize,
    DataDir,
    Ignore,
    Json,
    LearningRate,
    NetworkFile,
    OfModel,
    OfTask,
    Optimizer,
    Out,
    Seed,
    Select,
)
from tersor.cli.showing import show_result
from tersor.compress import Recipe, Step, compress
from tersor.core.errors import ConfigError
from tersor.tasks import load_task

PAST = {"prune": "pruned", "quantize": "quantized", "share": "shared", "factorize": "factorized"}
"""A step to what the network is after it, for the name of the file."""


def one_step(
    kind: type[Step], *, learning_rate: float = 1e-3
) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., None]]:
    """Make a command of a function whose parameters are a step's own options.

    The function gives what the step's settings are. The command has the file before these options,
    and after them those that `_do` has for all steps; then it does the step.

    Args:
        kind: the step.
        learning_rate: the default of its option.
    """

    def decorate(own: Callable[..., dict[str, Any]]) -> Callable[..., None]:
        parameters = inspect.signature(own, eval_str=True).parameters
        common = dict(inspect.signature(_do, eval_str=True).parameters)
        del common["kind"], common["settings"]
        common["learning_rate"] = common["learning_rate"].replace(default=learning_rate)

        @functools.wraps(own)
        def command(**given: Any) -> None:
            settings = own(**{name: given.pop(name) for name in parameters})
            _do(kind, settings, **given)

        shown = [common.pop("file"), *parameters.values(), *common.values()]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # typer reads it
            [option.replace(kind=option.KEYWORD_ONLY) for option in shown]
        )
        return guarded(command)

    return decorate


def _do(
    kind: type[Step],
    settings: dict[str, Any],
    file: NetworkFile = None,
    optimizer: Optimizer = "adam",
    learning_rate: LearningRate = 1e-3,
    select: Select = None,
    ignore: Ignore = None,
    task: OfTask = None,
    model: OfModel = None,
    batch_size: BatchSize = None,
    out: Out = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Do one step, write the network as a .terse file, and show what it cost.

    Args:
        kind, settings: the step.
        file: a trained network; without it, fresh weights of `model` for `task`.
        task, model: what the file does not say; of a fresh one, digits and lenet-300-100.
    """
    name = kind.__name__.lower()
    training = {"optimizer": optimizer, "learning_rate": learning_rate}
    chosen = {"select": select or [], "ignore": ignore or []}
    step = kind.read({**settings, **training, **chosen}, where=name)
    if file is None:
        names = {"task": task or "digits", "model": model or "lenet-300-100"}
        data = load_task(names["task"], data_dir=data_dir, batch_size=batch_size)
        network = starting_network(data, names["model"], seed, None)
    else:
        network, task, model, data = network_of(file, task, model, data_dir, batch_size)
        names = {"task": task, "model": model}
    out = out or Path(f"{names['task']}-{names['model']}-{PAST[name]}.terse")
    recipe = Recipe((step,), batch_size=batch_size)
    result = compress(network, data, recipe, out=out, seed=seed, metadata=names)
    show_result(result, as_json, sections=1)


def settings_of(given: list[str] | None) -> dict[str, Any]:
    """The further settings of a method, from KEY=VALUE; values as in YAML.

    Raises:
        ConfigError: one is not KEY=VALUE, or a key is given twice.

    >>> settings_of(["granularity=group", "group=64", "symmetric=false"])
    {'granularity': 'group', 'group': 64, 'symmetric': False}
    """
    settings: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, as group=64")
        if key in settings:
            raise ConfigError(f"--set {text}: {key!r} is given twice")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: {value!r} is no value, as 64, true or mse") from None
    return settings


def per_layer(option: str, text: str | None, kind: type) -> Any:
    """A number, or one for each of some layers as LAYER=NUMBER, ...; None stays None.

    Raises:
        ConfigError: it is neither.

    >>> per_layer("--density", "fc1=0.1, fc2=0.05", float)
    {'fc1': 0.1, 'fc2': 0.05}
    """
    if text is None:
        return None
    try:
        if "=" not in text:
            return kind(text)
        pairs = (part.rpartition("=") for part in text.split(","))
        return {name.strip(): kind(value) for name, _, value in pairs}
    except ValueError:
        example = "0.1" if kind is float else "4"
        raise ConfigError(
            f"{option} {text!r}: expected a number as {example}, or one for each of some layers "
            f"as fc1={example},fc2={example}"
        ) from None

"""A recipe: what is done to a network, step after step, as data (YAML or Python)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tersor.compress.steps import STEPS, Step, Train, kind_of
from tersor.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """One or more of the steps `train`, `prune`, `quantize`, `share` and `factorize`.

    `train` and `prune` come at most once, the others several times, for different layers. A step
    that would undo what an earlier one has left in the same layer is refused when the network is
    known. Training that comes after `prune` is of the pruned network: pruning at initialisation.

    Args:
        steps: their settings.
        name: for people.
        batch_size: samples a training batch of a built-in task; your own loaders bring theirs.

    Raises:
        ConfigError: no steps, or one too often.

    >>> from tersor.compress.steps import Prune, Quantize
    >>> recipe = Recipe((Prune(density=0.1), Quantize(bits=4)))
    >>> print(recipe.to_yaml(defaults=False), end="")
    steps:
    - prune:
        density: 0.1
    - quantize:
        bits: 4
    >>> recipe == read_recipe({"steps": [{"prune": {"density": 0.1}}, {"quantize": {"bits": 4}}]})
    True
    """

    steps: tuple[Step, ...]
    name: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        kinds = [kind_of(step) for step in self.steps]
        if not kinds or max(kinds.count("train"), kinds.count("prune")) > 1:
            raise ConfigError(
                f"recipe: the steps are {', '.join(kinds) or 'none'}; expected one or more of "
                f"{', '.join(STEPS)}, train and prune at most once"
            )

    def without_training(self) -> Recipe:
        """The same for a network that is trained already.

        Raises:
            ConfigError: nothing is left.
        """
        rest = tuple(step for step in self.steps if not isinstance(step, Train))
        return Recipe(rest, self.name, self.batch_size)

    def to_yaml(self, *, defaults: bool = True) -> str:
        """The recipe as YAML, with all defaults or without them; `read_recipe` reads both."""
        head = {"name": self.name, "batch_size": self.batch_size}
        steps = [{kind_of(s): s.model_dump(exclude_defaults=not defaults)} for s in self.steps]
        given = {key: value for key, value in head.items() if value is not None}
        return yaml.safe_dump(given | {"steps": steps}, sort_keys=False)

    def digest(self, **decides: Any) -> str:
        """Twelve hex digits that name a run: a hash of the recipe and all else that decides it."""
        text = json.dumps([self.to_yaml(), decides], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_recipe(source: str | os.PathLike[str] | Mapping[str, Any] | Recipe) -> Recipe:
    """A recipe from a file, from the name of one that comes with tersor, or from plain data.

    Args:
        source: a path (it has a suffix or a folder), a name of `recipe_names()`, a mapping as a
            file would hold it, or a recipe, which is given back.

    Raises:
        ConfigError: there is no such file or name, it is no YAML, a key is unknown, a value is
            out of range; the message names the file and the key.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return _parse(source, "recipe")
    if os.fspath(source) in recipe_names():
        text = (_packaged() / f"{os.fspath(source)}.yaml").read_text("utf-8")
        return _parse(_load(text, str(source)), str(source))
    path = Path(source)
    if not path.suffix and path.name == os.fspath(source):
        raise ConfigError(f"recipe {str(source)!r}: {did_you_mean(str(source), recipe_names())}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {error}") from error
    return _parse(_load(text, path.name), path.name)


def recipe_names() -> list[str]:
    """The recipes that come with tersor."""
    files = (entry.name for entry in _packaged().iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def recipe_for(task: str, model: str) -> str:
    """The name of the recipe that was tuned for a task and a model, else of the general one."""
    return name if (name := f"{task}-{model}") in recipe_names() else "deep-compression"


def _packaged() -> resources.abc.Traversable:
    return resources.files("tersor.compress") / "recipes"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is given twice is an error, not overwritten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _load(text: str, where: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


def _parse(data: object, where: str) -> Recipe:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {data!r}; expected a mapping with the key 'steps'")
    known = {"name": str, "batch_size": int, "steps": list}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), known)}")
        if not isinstance(value, known[key]):
            raise ConfigError(f"{where}, {key}: {value!r}; expected a {known[key].__name__}")
    if "steps" not in data:
        raise ConfigError(f"{where}: the key 'steps' is missing; expected a list of steps")
    batch_size = data.get("batch_size")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"{where}, batch_size: {batch_size}; expected 1 or more samples")
    steps = []
    for number, step in enumerate(data["steps"], 1):
        if not isinstance(step, Mapping) or len(step) != 1:
            raise ConfigError(
                f"{where}, step {number}: {step!r}; expected one of {', '.join(STEPS)}, "
                "with its settings below it"
            )
        [(kind, settings)] = step.items()
        if kind not in STEPS:
            raise ConfigError(
                f"{where}, step {number}: unknown step {kind!r}; {did_you_mean(str(kind), STEPS)}"
            )
        steps.append(STEPS[kind].read(settings or {}, where=f"{where}, {kind}"))
    return Recipe(tuple(steps), data.get("name"), batch_size)

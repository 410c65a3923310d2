"""A recipe: what is done to a network, step after step, as data (YAML or Python)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from tersor.core.errors import ConfigError, did_you_mean
from tersor.prune import ALLOCATIONS, CRITERIA, REPAIRS, SCHEDULES, pattern_of
from tersor.quantize import INITS, MAX_BITS
from tersor.train import Training


def _known(names: Collection[str | None], value: str | None) -> str | None:
    if value not in names:
        raise ValueError("unknown")
    return value


def _in_range(low: float, high: float, value: Any) -> Any:
    for number in value.values() if isinstance(value, dict) else [value]:
        if number is not None and not low <= number <= high:
            raise ValueError("out of range")
    return value


def _a_pattern(value: str) -> str:
    pattern_of(value)
    return value


_TINY = 1e-12  # below any density that keeps a weight
_SELECTORS = "a list of names of weights or modules, class names, or 're:pattern'"
_EPOCHS = "passes over the training data, 0 (no training) or more"


class Train(Training):
    """Train the network; what it gives is the reference that the result is compared with."""


class Prune(Training):
    """Prune: with epochs while training, by a `GradualPruner`; without, at once, by `prune_`."""

    density: Annotated[
        float | dict[str, float] | None, AfterValidator(partial(_in_range, _TINY, 1))
    ] = Field(
        default=None,
        description="0 < density <= 1, the share of weights that are kept "
        "(or a mapping of selectors to such densities; left out only for a pattern N:M)",
    )
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    criterion: Annotated[str, AfterValidator(partial(_known, CRITERIA))] = Field(
        default="magnitude", description=f"one of: {', '.join(CRITERIA)}"
    )
    pattern: Annotated[str, AfterValidator(_a_pattern)] = Field(
        default="element",
        description="element, row, channel, kernel, head, layer, N:M (as 2:4) or HxW (as 4x1)",
    )
    allocation: Annotated[str, AfterValidator(partial(_known, ALLOCATIONS))] = Field(
        default="global", description=f"one of: {', '.join(ALLOCATIONS)}"
    )
    schedule: Annotated[str, AfterValidator(partial(_known, SCHEDULES))] = Field(
        default="cubic", description=f"one of: {', '.join(SCHEDULES)}"
    )
    ramp: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="0 < ramp <= 1, the share of the steps in which the density falls",
    )
    rounds: int | None = Field(
        default=None,
        ge=1,
        description="prunings, 1 or more: evenly spaced in the ramp (default 100), "
        "or one after the other without epochs (default 1)",
    )
    repair: Annotated[str | None, AfterValidator(partial(_known, (None, *REPAIRS)))] = Field(
        default=None, description=f"one of: {', '.join(REPAIRS)} (without epochs)"
    )
    batches: int = Field(
        default=1,
        ge=1,
        description="training batches that criterion and repair look at, 1 or more",
    )
    ignore: list[str] = Field(default=[], description=_SELECTORS)


class Quantize(Training):
    """Share few values among the kept weights of each tensor, then train these values."""

    bits: Annotated[int | dict[str, int], AfterValidator(partial(_in_range, 1, MAX_BITS))] = Field(
        description=f"bits of a code, 1 to {MAX_BITS} (or a mapping of selectors to such bits)"
    )
    epochs: int = Field(default=0, ge=0, description=_EPOCHS)
    init: Annotated[str, AfterValidator(partial(_known, INITS))] = Field(
        default="linear", description=f"one of: {', '.join(INITS)}"
    )
    ignore: list[str] = Field(default=[], description=_SELECTORS)


Step = Train | Prune | Quantize

STEPS: dict[str, type[Step]] = {"train": Train, "prune": Prune, "quantize": Quantize}
"""Name of a step in a recipe to its settings."""


@dataclass(frozen=True)
class Recipe:
    """One or more of the steps `train`, `prune` and `quantize`, each at most once, the last last.

    Training that comes after `prune` is of the pruned network: pruning at initialisation.

    Args:
        steps: their settings.
        name: for people.
        batch_size: samples a training batch of a built-in task; your own loaders bring theirs.

    Raises:
        ConfigError: no steps, or steps in another order.

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
        if not kinds or len(set(kinds)) < len(kinds) or "quantize" in kinds[:-1]:
            raise ConfigError(
                f"recipe: the steps are {', '.join(kinds) or 'none'}; expected one or more of "
                f"{', '.join(STEPS)}, each at most once, quantize after the others"
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


def kind_of(step: Step) -> str:
    """The name of a step in a recipe."""
    return type(step).__name__.lower()


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

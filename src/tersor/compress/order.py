"""Which steps may follow each other on the same weight, and why others may not.

A step leaves a structure in the weights that it takes: zeros, few values, factors, ties. What comes
after must not take it away again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from tersor.compress.steps import Factorize, Prune, Quantize, Share, Step, Train
from tersor.core.errors import ConfigError
from tersor.core.weights import survey

_PARTS = "training moves the shared values apart"
_NO_MATRIX = "a hashed layer has no matrix of its own"
_UNTIED = "it would put another tensor in one of the places that share it"
_MAP = "its parts become layers of their own: share attention first"
_MIXTURE = "the weight is a mixture of templates, not a tensor of its own"

REFUSED: Mapping[tuple[str, str], str] = {
    ("zeros", "hash"): "a bucket holds pruned weights and others: hash first, then prune the "
    "buckets",
    ("zeros", "tie"): "what is tied has the zeros of one alone: tie first",
    ("zeros", "templates"): "a mixture of templates has no zeros",
    ("zeros", "factorize"): "factors of a weight with zeros are dense: factorize first, then prune "
    "the factors",
    ("zeros", "attention"): _MAP,
    ("values", "attention"): _MAP,
    ("values", "train"): f"{_PARTS}: train first, or give quantize its own epochs",
    ("values", "prune and train"): f"{_PARTS}: prune first, or without epochs",
    ("values", "quantize"): "it has few values already; give each weight to one step",
    ("values", "hash"): "buckets would have other values: hash first, then quantize the buckets",
    ("values", "tie"): "training follows a tie: tie first",
    ("values", "soft"): "it has few values already; give each weight to one step",
    ("values", "templates"): "a mixture of templates has many values",
    ("values", "factorize"): "factors have many values: factorize first, then quantize the factors",
    ("buckets", "hash"): "it is hashed already",
    ("buckets", "tie"): _NO_MATRIX,
    ("buckets", "templates"): _NO_MATRIX,
    ("buckets", "factorize"): _NO_MATRIX,
    ("ties", "attention"): _UNTIED,
    ("ties", "hash"): _UNTIED,
    ("ties", "templates"): _UNTIED,
    ("ties", "factorize"): _UNTIED,
    ("templates", "prune"): _MIXTURE,
    ("templates", "prune and train"): _MIXTURE,
    ("templates", "quantize"): _MIXTURE,
    ("templates", "hash"): _MIXTURE,
    ("templates", "tie"): _MIXTURE,
    ("templates", "soft"): _MIXTURE,
    ("templates", "templates"): _MIXTURE,
    ("templates", "factorize"): _MIXTURE,
    ("factors", "factorize"): "it is factorized already",
}
"""(what an earlier step left, what a later one does) to the reason why not, on the same weight."""


def leaves(step: Step) -> str | None:
    """The structure that a step leaves in the weights that it takes."""
    if isinstance(step, Share) and step.method == "attention":
        return None  # its layers are plain ones
    if isinstance(step, Share):
        return {"hash": "buckets", "soft": "values", "templates": "templates"}.get(
            step.method, "ties"
        )
    kinds: dict[type[Step], str] = {Prune: "zeros", Quantize: "values", Factorize: "factors"}
    return kinds.get(type(step))


def does(step: Step) -> str:
    """What a step does, as `REFUSED` calls it."""
    if isinstance(step, Share):
        return "tie" if step.method in ("tie", "layers") else step.method
    if isinstance(step, Prune):
        return "prune and train" if step.epochs else "prune"
    return type(step).__name__.lower()


class Structures:
    """What the steps so far have left in which weights.

    >>> from tersor.compress.steps import Factorize, Prune
    >>> net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    >>> left = Structures()
    >>> left.add(Prune(density=0.5, ignore=["1"]), ["0.weight"])
    >>> left.check(Factorize(select=["1"]), ["1.weight"])
    >>> left.check(Factorize(), ["0.weight", "1.weight"])
    Traceback (most recent call last):
        ...
    tersor.core.errors.ConfigError: factorize: '0.weight' was left with zeros by an earlier step; \
factors of a weight with zeros are dense: factorize first, then prune the factors. Or leave it out \
by select or ignore
    """

    def __init__(self, left: Mapping[str, Iterable[str]] | None = None) -> None:
        self._left = {name: list(words) for name, words in (left or {}).items()}

    def add(self, step: Step, names: Iterable[str]) -> None:
        """A step has taken these weights."""
        word = leaves(step)
        for name in names if word is not None else ():
            self._left.setdefault(name, []).append(str(word))

    def check(self, step: Step, names: Iterable[str]) -> None:
        """Raise ConfigError if the step would take a structure away from one of these weights."""
        for name in self._left if isinstance(step, Train) else names:
            for earlier, words in self._left.items():
                for word in words:
                    reason = REFUSED.get((word, does(step)))
                    if reason is not None and _is_of(name, earlier, word):
                        raise ConfigError(
                            f"{type(step).__name__.lower()}: {name!r} was left with {word} by an "
                            f"earlier step; {reason}. Or leave it out by select or ignore"
                        )

    def having(self, word: str) -> list[str]:
        """The weights that have this structure."""
        return [name for name, words in self._left.items() if word in words]

    def to_dict(self) -> dict[str, list[str]]:
        """All of it as plain data."""
        return {name: list(words) for name, words in self._left.items()}


def check_order(model: nn.Module, steps: Iterable[Step]) -> None:
    """Refuse steps that undo each other, before any of them is done.

    A step whose selectors name what only an earlier step makes is checked when it is its turn.

    Raises:
        ConfigError: which step, which weight, and why.
    """
    left = Structures()
    restructured = False
    for step in steps:
        try:
            names = taken(model, step)
        except ConfigError:
            if not restructured:
                raise
            continue
        finally:
            restructured |= isinstance(step, Share | Factorize)
        left.check(step, names)
        left.add(step, names)


def taken(model: nn.Module, step: Step) -> list[str]:
    """The weights of the model that a step is asked to take.

    Raises:
        ConfigError: a selector matches nothing.
    """
    if isinstance(step, Train):
        return []
    select = step.select
    if isinstance(step, Share) and step.method in ("tie", "layers", "attention"):
        select = _named(step.settings)
    weights, _ = survey(model, select=select or None, ignore=step.ignore or None)
    if isinstance(step, Share) and step.method == "attention":
        weights = [w for w in weights if w.kind == "attention"]
    return [weight.name for weight in weights]


def _named(settings: Mapping[str, Any]) -> list[str]:
    """The layers that settings of ties and of shared stacks name."""
    ties, layers = settings.get("ties", []), settings.get("layers", [])
    names = [*ties, *ties.values()] if isinstance(ties, Mapping) else list(ties)
    return names + ([layers] if isinstance(layers, str) else list(layers))


def _is_of(name: str, earlier: str, word: str) -> bool:
    """Whether a weight is the earlier one, or of what has taken the place of its layer."""
    layer = earlier.removesuffix(".weight")
    replaced = word in ("buckets", "factors", "templates")
    return name == earlier or (replaced and name.startswith(f"{layer}."))
